"""The formats of corpus files: the endings of their names, their readers, and their parsers.

To add a format, write a reader and a parser in a new module (``parquet_reader.py`` is an example) and add a row to
``FORMATS``. Commands, messages and preprocessing take everything else from that row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from megatron_mmbert.data.text.line_reader import COMPRESSIONS, LineReader, parse_jsonl, parse_text_line
from megatron_mmbert.data.text.parquet_reader import RowReader, parse_row
from megatron_mmbert.data.text.records import BadLine, Document, Fields, Record
from megatron_mmbert.utils.errors import UserError


class Reader(Protocol):
    """The records of one file, read in the parent process: cheap to read, and small enough to be sent to a worker."""

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far, for the progress."""

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Yield (line or row from 1, record): a raw line, a dict of a row's fields, or the report on a bad one."""


class Format(NamedTuple):
    """One format.

    Attributes:
        endings: the endings of its files' names.
        open: makes the reader of (path, fields, longest record in bytes); a longer one must never be in memory whole.
        parse: makes the document of (path, line or row, record that is no :class:`BadLine`, fields), in a worker; a bad
            line if it holds none, None if it is to be passed over.
    """

    endings: tuple[str, ...]
    open: Callable[[Path, Fields, int], Reader]
    parse: Callable[[Path, int, Any, Fields], Document | BadLine | None]


def _compressed(ending: str) -> tuple[str, ...]:
    return tuple(ending + packed for packed in COMPRESSIONS)


_JSON_LINES = (".jsonl", *_compressed(".jsonl"), ".ndjson", *_compressed(".ndjson"))

FORMATS = (
    # A .json.gz is lines in every corpus that has one (C4); a plain .json is mostly a description of something.
    Format((*_JSON_LINES, *_compressed(".json")), LineReader, parse_jsonl),
    Format((".txt", *_compressed(".txt")), LineReader, parse_text_line),
    Format((".parquet",), RowReader, parse_row),
)
ENDINGS = tuple(ending for format in FORMATS for ending in format.endings)


def format_of(path: Path) -> Format:
    """Return the format of a file, by the ending of its name in upper or lower case.

    Raises:
        UserError: it is none of ``FORMATS``.
    """
    for format in FORMATS:
        if path.name.lower().endswith(format.endings):
            return format
    raise UserError(f"{path}: unknown kind of file; convert it to one of {described_endings()}")


def is_readable(name: str) -> bool:
    """Tell if a file of this name is of one of ``FORMATS``."""
    return name.lower().endswith(ENDINGS)


def described_endings() -> str:
    """Return the endings for a message, compressed ones as a group."""
    plain = [ending for ending in ENDINGS if not ending.endswith(tuple(COMPRESSIONS))]
    return f"{', '.join(plain)} (lines also {', '.join(COMPRESSIONS)})"
