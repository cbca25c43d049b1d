"""Writing ``model.safetensors``, in one file or in shards, tensor by tensor."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.finite import check_finite

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
DEFAULT_SHARD = "5GB"
METADATA = {"format": "pt"}  # transformers asks every safetensors file which framework wrote it
_UNITS = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)B?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Return the bytes in ``5GB``, ``500MB`` or a plain number; decimal units, as transformers has them.

    Raises:
        UserError: anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    size = round(float(match[1]) * _UNITS[match[2].upper()]) if match else 0
    if size < 1:
        raise UserError(f"--max-shard-size {text!r}: write a size such as 5GB or 500MB")
    return size


def plan_shards(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Return the tensor names of each file, in order: no file above ``limit`` bytes unless one tensor alone is."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if shards[-1] and filled + size > limit:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    return shards


def write_weights(
    folder: Path,
    sizes: Mapping[str, int],
    load: Callable[[str], Tensor],
    limit: int,
    tick: Callable[[], object] = lambda: None,
) -> list[Path]:
    """Write all tensors into ``folder``; one shard at a time is in memory.

    Args:
        sizes: bytes of each tensor.
        load: returns a tensor by its name.
        tick: called after each tensor.

    Returns:
        The files; the index last, if there is one.

    Raises:
        UserError: a tensor is not finite.
    """
    shards = plan_shards(sizes, limit)
    files: list[Path] = []
    file_of: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = WEIGHTS if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        tensors: dict[str, Tensor] = {}
        for name in shard:
            tensors[name] = check_finite(load(name).contiguous(), name, folder / file, "nothing was written")
            tick()
        save_file(tensors, folder / file, metadata=METADATA)
        file_of |= dict.fromkeys(shard, file)
        files.append(folder / file)
    if len(shards) > 1:
        write_json(folder / INDEX, {"metadata": {"total_size": sum(sizes.values())}, "weight_map": file_of})
        files.append(folder / INDEX)
    return files
