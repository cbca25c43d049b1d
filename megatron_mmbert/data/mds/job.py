"""One import of MDS shards: its arguments, and the settings of its store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_mmbert.data.mds.columns import ID_TYPES
from megatron_mmbert.data.mds.discover import AS_FOUND, Naming
from megatron_mmbert.data.mds.documents import Documents
from megatron_mmbert.data.store.writer import SHARD_BYTES
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.names import is_name

MAX_SAMPLE_BYTES = 16 << 20
"""Longest sample read by default: four million ids. Decoding takes several times its size in memory."""


@dataclass(frozen=True)
class ImportJob:
    """One import; raises UserError for a value out of its range.

    Attributes:
        naming: sources and languages.
        splits: the parts to take; None: ``train``, or what the input folders are named by.
        column: the column with the ids.
        id_type: the NumPy name of the ids' type in a column of bare bytes.
        documents: what a document is.
        skip_bad: leave bad samples and damaged shards out and list them, instead of stopping at the first.
        shard_bytes: a shard's ``.bin`` of the store is cut at this size.
        workers: processes that decode; changes nothing in the store.
        max_sample_bytes: a longer sample is a bad one.
        partition: (I, N): make only partition I, from 1, of N, to be merged.
    """

    # attributes: one for each argument of the command

    inputs: tuple[Path, ...]
    tokenizer: Path
    output: Path
    naming: Naming = AS_FOUND
    splits: tuple[str, ...] | None = None
    column: str = "input_ids"
    id_type: str | None = None
    documents: Documents = "marked"
    skip_bad: bool = False
    overwrite: bool = False
    workers: int = 1
    shard_bytes: int = SHARD_BYTES
    max_sample_bytes: int = MAX_SAMPLE_BYTES
    partition: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        names = [("--source", self.naming.source), ("--language", self.naming.language)]
        names += [("--language-of", code) for _, code in self.naming.language_of]
        for flag, name in names:
            if name is not None and not is_name(name):
                raise UserError(f"{flag} {name!r}: give a name of printable characters without spaces")
        if self.naming.language is not None and self.naming.language_of:
            raise UserError("--language and --language-of exclude each other; give one of them")
        if self.id_type is not None and self.id_type not in ID_TYPES:
            raise UserError(f"--id-type {self.id_type!r}: give one of {', '.join(ID_TYPES)}")


def import_settings(job: ImportJob, fingerprint: str) -> dict[str, Any]:
    """Return all that the store depends on besides its inputs, to find out if an existing one is this one.

    ``fingerprint``: the tokenizer's.
    """
    added: dict[str, Any] = {} if job.id_type is None else {"id_type": job.id_type}
    if job.max_sample_bytes != MAX_SAMPLE_BYTES:
        added["max_sample_bytes"] = job.max_sample_bytes
    return added | {
        "format": "mds",
        "source": None,  # datasets of a partition are named SOURCE/LANGUAGE
        "column": job.column,
        "documents": job.documents,
        "skip_bad": job.skip_bad,
        "shard_bytes": job.shard_bytes,
        "tokenizer_fingerprint": fingerprint,
    }
