"""Verifying a Hugging Face folder: every file against its checksum, what it says of itself, and every tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

from megatron_mmbert.convert.hf_config import read_config, read_config_values
from megatron_mmbert.convert.hf_identity import check_folder
from megatron_mmbert.convert.hf_reader import HFTensors
from megatron_mmbert.convert.import_hf import names_in
from megatron_mmbert.tokenizer.load import folder_fingerprints, load_tokenizer
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, problems
from megatron_mmbert.utils.errors import UserError

_REMEDY = "copy the folder again, or export the model again"


def verify_export(
    folder: Path, deep: bool = False, tokenizer: str | None = None, progress: Callable[[int], None] = lambda done: None
) -> Iterator[str]:
    """Yield one sentence for each problem of a model folder; nothing if it is valid.

    Args:
        deep: also read every tensor, which must be finite.
        tokenizer: the fingerprint of the tokenizer that the model must have; None for any.
        progress: called with the bytes of each file after it has been read.
    """
    found = False
    for step in (_checksums(folder, progress), _contents(folder, deep), _tokenizer(folder, tokenizer)):
        if found:
            return  # what follows from the first problem would only be said twice
        try:
            for problem in step:
                found = True
                yield problem
        except UserError as error:
            found = True
            yield str(error)


def _checksums(folder: Path, progress: Callable[[int], None]) -> Iterator[str]:
    if (folder / CHECKSUM_FILE).is_file():
        yield from problems(folder, _REMEDY, progress)


def _contents(folder: Path, deep: bool) -> Iterator[str]:
    """Compare the configuration with what was exported, and the tensors with the configuration."""
    check_folder(folder)
    tensors = HFTensors(folder)
    if read_config_values(folder).get("model_type") == "modernbert":
        names_in(tensors, read_config(folder).model, needs_head=False)
    for name in tensors.names() if deep else ():
        tensor = tensors.load_as_stored(name)
        if tensor.is_floating_point() and not tensor.isfinite().all():
            bad = int((~tensor.isfinite()).sum())
            yield f"{tensors.path_of(name)}: tensor {name!r} has {bad:,} values that are not finite; {_REMEDY}"


def _tokenizer(folder: Path, wanted: str | None) -> Iterator[str]:
    if not folder_fingerprints(folder):
        if wanted is not None:
            yield f"{folder}: has no tokenizer to compare; {_REMEDY}"
        return
    tokenizer = load_tokenizer(folder)
    rows = read_config_values(folder).get("vocab_size")
    if isinstance(rows, int) and tokenizer.vocab_size > rows:
        yield f"{folder}: the tokenizer has {tokenizer.vocab_size} ids and the model {rows}; copy both from one export"
    if wanted is not None and not tokenizer.has_fingerprint(wanted):
        yield f"{folder}: has another tokenizer than --tokenizer; {_REMEDY}"
