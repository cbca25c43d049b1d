"""The output of inference: a folder of shards and an index, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import save_file
from torch import Tensor

from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.output_kinds import EMBEDDINGS
from megatron_mmbert.utils.outputs import output_folder

INDEX = "index.json"


def write_shards(
    output: Path,
    parts: Iterable[Tensor],
    form: str,
    about: dict[str, Any],
    overwrite: bool,
    inputs: Sequence[Path] = (),
) -> int:
    """Write one shard per part, in order, and ``index.json`` with their rows; return the rows written.

    Raises:
        UserError: ``output`` exists and ``overwrite`` is false.
    """
    with output_folder(output, EMBEDDINGS, inputs, overwrite) as folder:
        shards: list[dict[str, Any]] = []
        for number, part in enumerate(parts):
            name = f"part-{number:05d}.{form}"
            _WRITERS[form](folder / name, part)
            shards.append({"file": name, "rows": len(part)})
        rows = sum(shard["rows"] for shard in shards)
        write_json(folder / INDEX, {**about, "rows": rows, "shards": shards})
    return int(rows)


def _write_npy(path: Path, part: Tensor) -> None:
    np.save(path, part.numpy(), allow_pickle=False)


def _write_safetensors(path: Path, part: Tensor) -> None:
    save_file({"rows": part.contiguous()}, path)


def _write_jsonl(path: Path, part: Tensor) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row) + "\n" for row in part.tolist())


_WRITERS = {"npy": _write_npy, "safetensors": _write_safetensors, "jsonl": _write_jsonl}
