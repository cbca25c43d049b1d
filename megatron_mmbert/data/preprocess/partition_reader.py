"""Reading a finished partition, one language after another, every document checked by its checksum."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.preprocess.partition_writer import (
    FORMAT,
    IDS_NAME,
    ROWS_NAME,
    RUN,
    RUNS_NAME,
    VERSION,
)
from megatron_mmbert.data.store.manifest import PARTITION_NAME
from megatron_mmbert.data.store.tokenized_documents import ROW, TokenizedDocuments, checksums_of
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

REMEDY = "make this partition again with the same command and --overwrite"
_ROWS_AT_ONCE = 1 << 15
_TOKENS_AT_ONCE = 4 << 20


class Partition:
    """A finished partition.

    Attributes:
        about: the content of ``part.json``.
        languages: in the order of their first document.
        tokens: the total.
    """

    def __init__(self, path: Path) -> None:
        """Check the sizes of the files against ``part.json``.

        Raises:
            UserError: no partition there, or one that is damaged.
        """
        self.path = path
        value = read_json(
            path / PARTITION_NAME, "partition of a token store", "give finished partitions, made with --partition I/N"
        )
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
            raise UserError(f"{path / PARTITION_NAME}: not of a partition that this program reads; {REMEDY}")
        self.about: dict[str, Any] = value
        try:
            self._open(path, value)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(f"{path / PARTITION_NAME}: damaged ({type(error).__name__}: {error}); {REMEDY}") from None

    def _open(self, path: Path, value: dict[str, Any]) -> None:
        for name, expected in value["sizes"].items():
            size = (path / name).stat().st_size if (path / name).exists() else -1
            if size != expected:
                raise UserError(f"{path / name}: {max(size, 0)} bytes where {expected} are expected; {REMEDY}")
        self.languages: list[str] = value["languages"]
        self._dtype = np.dtype(value["dtype"])
        runs = np.fromfile(path / RUNS_NAME, RUN)
        if runs.size and not (0 <= runs["language"].min() and runs["language"].max() < len(self.languages)):
            raise UserError(f"{path / RUNS_NAME}: damaged; {REMEDY}")
        counts = {IDS_NAME: (runs["tokens"], self._dtype.itemsize), ROWS_NAME: (runs["documents"], ROW.itemsize)}
        for name, (per_run, width) in counts.items():
            if (per_run < 1).any() or sum(per_run.tolist()) * width != value["sizes"][name]:
                raise UserError(f"{path / name}: not as long as {RUNS_NAME} says; {REMEDY}")
        self._order = np.argsort(runs["language"], kind="stable")
        self._first = np.searchsorted(runs["language"][self._order], np.arange(len(self.languages) + 1))
        self._documents, self._tokens = runs["documents"], runs["tokens"]
        self.tokens = int(self._tokens.sum())
        self._row_start = np.cumsum(self._documents) - self._documents
        self._id_start = np.cumsum(self._tokens) - self._tokens

    @property
    def left_out(self) -> int:
        """Documents that did not meet a condition; 0 if it was made before there were any."""
        return int(self.about.get("left_out", 0))

    def read(self, language: str) -> Iterator[TokenizedDocuments]:
        """Yield the documents of ``language`` in their order, some at a time; nothing if there are none.

        Raises:
            UserError: damaged documents.
        """
        if language not in self.languages:
            return
        index = self.languages.index(language)
        for run in self._order[self._first[index] : self._first[index + 1]].tolist():
            row, begin = int(self._row_start[run]), int(self._id_start[run])
            stop, end = row + int(self._documents[run]), begin + int(self._tokens[run])
            while row < stop:
                rows = self._load(ROWS_NAME, ROW, row, min(_ROWS_AT_ONCE, stop - row))
                if not ((rows["tokens"] > 0) & (rows["tokens"] <= end - begin)).all():
                    raise UserError(f"{self.path / ROWS_NAME}: damaged; {REMEDY}")
                fit = int(np.searchsorted(np.cumsum(rows["tokens"]), _TOKENS_AT_ONCE, side="right"))
                rows = rows[: max(fit, 1)]
                ids = self._load(IDS_NAME, self._dtype, begin, int(rows["tokens"].sum()))
                documents = TokenizedDocuments(language, ids, rows)
                self._check(documents, row)
                yield documents
                row += rows.size
                begin += ids.size

    def _load(self, name: str, dtype: np.dtype[Any], first: int, count: int) -> npt.NDArray[Any]:
        return np.fromfile(self.path / name, dtype, count, offset=first * dtype.itemsize)

    def _check(self, documents: TokenizedDocuments, first: int) -> None:
        """Compare every document's checksum; ``first``: the row of the first of ``documents``."""
        found = np.array(checksums_of(documents.ids, documents.rows["tokens"]), np.uint32)
        wrong = np.flatnonzero(found != documents.rows["crc32"])
        if wrong.size:
            raise UserError(
                f"{self.path}: document {first + wrong[0]} ({documents.language}) is damaged, its checksum is wrong; "
                f"{REMEDY}"
            )


def verify_partition(path: Path, progress: Callable[[int], None] = lambda done: None) -> Iterator[str]:
    """Yield the first problem of a partition that is yet to be merged; nothing if it is valid.

    ``progress`` is called with the bytes of ids checked since its last call.
    """
    try:
        partition = Partition(path)
        vocab_size = partition.about["tokenizer"]["vocab_size"]
        for language in partition.languages:
            for documents in partition.read(language):
                if not 0 <= int(documents.ids.min()) <= int(documents.ids.max()) < vocab_size:
                    yield f"{path}: {language} has ids outside the vocabulary of {vocab_size}; {REMEDY}"
                    return
                progress(documents.ids.nbytes)
    except UserError as error:
        yield str(error)
