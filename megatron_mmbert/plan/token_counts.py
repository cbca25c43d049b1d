"""The text that a plan is made for: the recipe's stores as far as they exist, or a table of token counts.

A table knows no documents. Each of its languages counts as one long document, so that samples are full and the very
mixture that trains (``data.mixture``) can plan with it; real documents are shorter, which costs two special tokens
more per document and saves attention.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.values import parse_count
from megatron_mmbert.data.sampling.settings import TokenSource
from megatron_mmbert.data.store.multi_store import open_stores
from megatron_mmbert.utils.errors import UserError, nearest

NO_SOURCE = "table"
"""Source of all text in a table without a column ``source``."""
_LANGUAGE_COLUMNS = ("language", "code")


class _Name(NamedTuple):
    source: str
    language: str


class TokenCounts:
    """A :class:`TokenSource` of counts alone; it has no ids to give."""

    def __init__(self, tokens: Mapping[tuple[str, str], int], vocab_size: int) -> None:
        self._tokens = {_Name(*name): count for name, count in sorted(tokens.items())}
        self.vocab_size = vocab_size

    @property
    def datasets(self) -> Sequence[_Name]:
        return list(self._tokens)

    @property
    def names_sources(self) -> bool:
        """True where the table says which source text is from."""
        return any(name.source != NO_SOURCE for name in self._tokens)

    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]:
        """One document of all tokens, int64 [1]."""
        return np.array([self._tokens[_Name(source, language)]], dtype=np.int64)

    def reader(self, source: str, language: str) -> Callable[[int, int, int], npt.NDArray[Any]]:
        raise NotImplementedError("a table of token counts holds no text")

    def where(self, source: str, language: str, document: int) -> str:
        raise NotImplementedError("a table of token counts holds no text")


def available_token_counts(
    recipe: Recipe, table: Path | None, column: str, warn: Callable[[str], None]
) -> TokenSource | TokenCounts | None:
    """The table's counts if one is given, else the recipe's stores, as far as they exist; None where none does.

    Raises:
        UserError: a damaged store or table.
    """
    if table is not None:
        return read_token_counts(table, column, recipe.model.vocab_size)
    there = [path for path in recipe.data.stores if path.exists()]
    for path in recipe.data.stores:
        if path not in there:
            warn(f"{path}: no such token store yet")
    if not there:
        warn("without text no languages and epochs are planned; give --token-counts to plan with a table")
    return open_stores(there) if there else None


def read_token_counts(path: Path, column: str, vocab_size: int) -> TokenCounts:
    """Counts from a TSV with a column ``language`` or ``code``, one of counts, and perhaps one called ``source``.

    Rows without a count, or with 0, are languages without text.

    Raises:
        UserError: no such file, a missing column, a line that is no count, or a language twice.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
            rows = [(reader.line_num, row) for row in reader]
            header = list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot read the token counts ({error}); name a TSV file") from None
    named = next((name for name in _LANGUAGE_COLUMNS if name in header), None)
    if named is None:
        raise UserError(f"{path}:1: neither a column 'language' nor 'code' in {header}; the first line names them")
    if column not in header:
        raise UserError(f"{path}:1: no column {column!r}{nearest(column, header)}; choose one by --tokens-column")
    counts: dict[tuple[str, str], int] = {}
    for line, row in rows:
        name = (row.get("source") or NO_SOURCE, row[named] or "")
        if not name[1] or name in counts:
            raise UserError(f"{path}:{line}: {'twice ' + name[1] if name[1] else 'no language'}; give each one line")
        counts[name] = _count(row[column], f"{path}:{line}")
    with_text = {name: count for name, count in counts.items() if count}
    if not with_text:
        raise UserError(f"{path}: no language has tokens in column {column!r}; choose another by --tokens-column")
    return TokenCounts(with_text, vocab_size)


def _count(text: str | None, where: str) -> int:
    try:
        return int(parse_count(text.strip())) if text and text.strip() else 0
    except ValueError as error:
        raise UserError(f"{where}: {text!r} is no count of tokens: {error}") from None
