"""One preprocessing command: its arguments, its input files in the store's order, and the settings of its store."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from megatron_mmbert.data.preprocess.partition_writer import InputIdentity
from megatron_mmbert.data.store.writer import SHARD_BYTES
from megatron_mmbert.data.text.documents import empty_file
from megatron_mmbert.data.text.inputs.discover import InputOptions, discover
from megatron_mmbert.data.text.inputs.languages import LanguageFrom
from megatron_mmbert.data.text.records import MAX_LINE_BYTES, Fields, InputFile
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import to_json
from megatron_mmbert.utils.names import is_name

MIN_MAX_LENGTH = 16
"""Shorter samples would be cut within words."""


@dataclass(frozen=True)
class PreprocessJob:
    """One preprocessing command; raises UserError for a value out of its range.

    Attributes:
        language: the language of all documents; None: as the files' paths say, or each line's ``fields.language``.
        language_from: the names that are languages, also where they are no codes: the files' or their folders'.
        splits: the parts of a published corpus to take; None: ``train``, or what the input folders are named by.
        skip_bad: leave bad lines out and list them, instead of stopping at the first.
        shard_bytes: a shard's ``.bin`` is cut at this size.
        workers: processes that tokenize; changes nothing in the store.
        max_line_bytes: a longer line or text is a bad line, and never in memory as a whole.
        dedup: of the documents of a language with the same text, keep the first.
        max_length: cut documents at sentence ends into samples of at most so many tokens, ``<bos>`` and ``<eos>``
            included; None: leave them whole.
        partition: (I, N): make only partition I, from 1, of N, to be merged.
    """

    # attributes: one for each argument of the command

    inputs: tuple[Path, ...]
    tokenizer: Path
    output: Path
    source: str = "corpus"
    language: str | None = None
    language_from: LanguageFrom | None = None
    splits: tuple[str, ...] | None = None
    fields: Fields = field(default_factory=Fields)
    skip_bad: bool = False
    overwrite: bool = False
    workers: int = 1
    shard_bytes: int = SHARD_BYTES
    max_line_bytes: int = MAX_LINE_BYTES
    dedup: bool = False
    max_length: int | None = None
    partition: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name in ("workers", "shard_bytes", "max_line_bytes"):
            value = getattr(self, name)
            if value < 1:
                raise UserError(f"--{name.replace('_', '-')} {value}: must be at least 1")
        if self.max_length is not None and self.max_length < MIN_MAX_LENGTH:
            raise UserError(f"--max-length {self.max_length}: must be at least {MIN_MAX_LENGTH}")
        if not is_name(self.source):
            raise UserError(f"--source {self.source!r}: give a name of printable characters without spaces")
        if self.dedup and self.fields.rehydrate:
            raise UserError("--dedup and --rehydrate exclude each other: one takes away what the other adds")
        _ = self.options  # their values are checked

    @property
    def options(self) -> InputOptions:
        """The user's word on the input."""
        return InputOptions(self.fields, self.language, self.language_from, self.splits, self.max_line_bytes)


def input_files(job: PreprocessJob) -> list[InputFile]:
    """Return all input files in the store's order; says which they are.

    Raises:
        UserError: an empty file, before any work (unless bad lines are skipped); no input at all; a language that is
            not clear.
    """
    # The list of skipped lines of a store that is made in its own input folder is no input.
    inputs = discover(job.inputs, job.options, without=job.output)
    for file in inputs.files:
        if file.path.stat().st_size == 0 and not job.skip_bad:
            raise UserError(str(empty_file(file.path)))
    inputs.announce()
    return sorted(inputs.files, key=lambda file: file.language or "")  # stable: keeps the order in a language


def partition_files(files: Sequence[InputFile], partition: tuple[int, int]) -> list[InputFile]:
    """Return the files of partition I of N: neighbours in the store's order, of about equal bytes, at least one each.

    Raises:
        UserError: fewer files than partitions.
    """
    index, count = partition
    if count > len(files):
        raise UserError(f"--partition {index}/{count}: there are only {len(files)} input files; use at most as many")
    ends = list(accumulate(file.path.stat().st_size for file in files))
    cuts = [0]
    for before in range(1, count):
        wanted = ends[-1] * before / count
        cut = sum(end - file.path.stat().st_size / 2 < wanted for end, file in zip(ends, files, strict=True))
        cuts.append(min(max(cut, cuts[-1] + 1), len(files) - (count - before)))
    cuts.append(len(files))
    return list(files[cuts[index - 1] : cuts[index]])


def input_identities(files: Sequence[InputFile]) -> list[InputIdentity]:
    """Return the identity of each input file: it changes when the file does."""
    rows = []
    for file in files:
        status = file.path.stat()
        rows.append([str(file.path.resolve()), file.language, status.st_size, status.st_mtime_ns])
    return rows


def inputs_digest(inputs: Sequence[InputIdentity]) -> str:
    """Return a name for a list of inputs, by which partitions find out that they are of the same one."""
    return hashlib.sha256(to_json(list(inputs)).encode()).hexdigest()


def store_settings(job: PreprocessJob, tokenizer: Tokenizer) -> dict[str, Any]:
    """Return all that the store depends on besides its inputs, to find out if an existing one is this one."""
    # Stores made before these options existed have no such keys, and the default.
    added: dict[str, Any] = {"dedup": True} if job.dedup else {}
    if job.max_length is not None:
        added["max_length"] = job.max_length
    if job.max_line_bytes != MAX_LINE_BYTES:
        added["max_line_bytes"] = job.max_line_bytes
    if job.fields.where:
        added["where"] = [list(condition) for condition in job.fields.where]
    if job.fields.rehydrate:
        added["rehydrate"] = True
    return added | {
        "source": job.source,
        "language": job.language,
        "text_field": job.fields.text,
        "language_field": job.fields.language,
        "skip_bad": job.skip_bad,
        "shard_bytes": job.shard_bytes,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
    }
