"""Reading a finished part, one language after another, every document checked by its checksum."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.preprocess.partition_writer import (
    FORMAT,
    IDS_NAME,
    PART_NAME,
    ROWS_NAME,
    RUN,
    RUNS_NAME,
    VERSION,
)
from megatron_mmbert.data.store.encoded_documents import ROW, Documents
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

REMEDY = "make this part again with the same command and --overwrite"
_ROWS_AT_ONCE = 1 << 15
_TOKENS_AT_ONCE = 4 << 20


class Partition:
    """A finished part.

    Attributes:
        about: the content of ``part.json``.
        languages: in the order of their first document.
        tokens: in all.
    """

    def __init__(self, path: Path) -> None:
        """
        Raises:
            UserError: no part there, or one that is damaged.
        """
        self.path = path
        value = read_json(path / PART_NAME, "part of a token store", "give finished parts, made with --shard I/N")
        if not isinstance(value, dict) or value.get("format") != FORMAT or value.get("version") != VERSION:
            raise UserError(f"{path / PART_NAME}: not of a part that this program reads; {REMEDY}")
        self.about: dict[str, Any] = value
        for name, size in value["sizes"].items():
            found = (path / name).stat().st_size if (path / name).exists() else -1
            if found != size:
                raise UserError(f"{path / name}: {max(found, 0)} bytes where {size} are expected; {REMEDY}")
        self.languages: list[str] = value["languages"]
        self._dtype = np.dtype(value["dtype"])
        runs = np.fromfile(path / RUNS_NAME, RUN)
        if runs.size and not (0 <= runs["language"].min() and runs["language"].max() < len(self.languages)):
            raise UserError(f"{path / RUNS_NAME}: damaged; {REMEDY}")
        counts = {IDS_NAME: (runs["tokens"], self._dtype.itemsize), ROWS_NAME: (runs["documents"], ROW.itemsize)}
        for name, (numbers, width) in counts.items():
            if (numbers < 1).any() or sum(numbers.tolist()) * width != value["sizes"][name]:
                raise UserError(f"{path / name}: not as long as {RUNS_NAME} says; {REMEDY}")
        self._order = np.argsort(runs["language"], kind="stable")
        self._first = np.searchsorted(runs["language"][self._order], np.arange(len(self.languages) + 1))
        self._documents, self._tokens = runs["documents"], runs["tokens"]
        self.tokens = int(self._tokens.sum())
        self._row_start = np.cumsum(self._documents) - self._documents
        self._id_start = np.cumsum(self._tokens) - self._tokens

    def read(self, language: str) -> Iterator[Documents]:
        """The documents of ``language`` in their order, some at a time; nothing if there are none.

        Raises:
            UserError: damaged documents.
        """
        if language not in self.languages:
            return
        number = self.languages.index(language)
        for run in self._order[self._first[number] : self._first[number + 1]].tolist():
            row, begin = int(self._row_start[run]), int(self._id_start[run])
            stop, end = row + int(self._documents[run]), begin + int(self._tokens[run])
            while row < stop:
                rows = self._load(ROWS_NAME, ROW, row, min(_ROWS_AT_ONCE, stop - row))
                if not ((rows["tokens"] > 0) & (rows["tokens"] <= end - begin)).all():
                    raise UserError(f"{self.path / ROWS_NAME}: damaged; {REMEDY}")
                fit = int(np.searchsorted(np.cumsum(rows["tokens"]), _TOKENS_AT_ONCE, side="right"))
                rows = rows[: max(fit, 1)]
                ids = self._load(IDS_NAME, self._dtype, begin, int(rows["tokens"].sum()))
                documents = Documents(language, ids, rows)
                self._check(documents, row)
                yield documents
                row += rows.size
                begin += ids.size

    def _load(self, name: str, dtype: np.dtype[Any], first: int, count: int) -> npt.NDArray[Any]:
        return np.fromfile(self.path / name, dtype, count, offset=first * dtype.itemsize)

    def _check(self, documents: Documents, first: int) -> None:
        lengths = documents.rows["tokens"]
        content, end = documents.ids.data.cast("B"), 0
        for number, (size, checksum) in enumerate(
            zip((lengths * self._dtype.itemsize).tolist(), documents.rows["crc32"].tolist(), strict=True)
        ):
            if zlib.crc32(content[end : end + size]) != checksum:
                raise UserError(
                    f"{self.path}: document {first + number} ({documents.language}) is damaged, its checksum is wrong; "
                    f"{REMEDY}"
                )
            end += size
