"""Verifying a tokenizer: its folder's files against their checksums, that it loads, and that both its files agree."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from megatron_mmbert.tokenizer.load import load_tokenizer, same_ids
from megatron_mmbert.tokenizer.special_tokens import EXPORTED_FILE, MODEL_FILE
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, problems
from megatron_mmbert.utils.errors import UserError

_REMEDY = "copy the folder again, or train the tokenizer again"


def verify_tokenizer(path: Path, wanted: str | None = None) -> Iterator[str]:
    """Yield one sentence for each problem of a tokenizer's folder or file; nothing if it is valid.

    Args:
        wanted: the fingerprint that it must have; None for any.
    """
    try:
        if (path / CHECKSUM_FILE).is_file():
            found = list(problems(path, _REMEDY))
            yield from found
            if found:
                return
        tokenizer = load_tokenizer(path)
    except UserError as error:
        yield str(error)
        return
    if {MODEL_FILE, EXPORTED_FILE} <= {file.name for file in path.glob("*")}:
        if not same_ids(load_tokenizer(path / MODEL_FILE), load_tokenizer(path / EXPORTED_FILE)):
            yield f"{path / EXPORTED_FILE}: gives other ids than {MODEL_FILE} beside it; {_REMEDY}"
    if wanted is not None and not tokenizer.has_fingerprint(wanted):
        yield f"{path}: has another fingerprint than --tokenizer; {_REMEDY}"
