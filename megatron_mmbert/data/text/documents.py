"""Reading documents, one document per line or row, and reporting a line that holds none.

Blank lines separate and are passed over. Everything else that holds no text is a *bad line*: it stops the command with
its file, line, value and remedy, or, when the user asks for it, it is counted and listed and work continues. The
formats are the rows of ``formats.FORMATS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_mmbert.data.text.formats import Reader, format_of
from megatron_mmbert.data.text.inputs.discover import find_files
from megatron_mmbert.data.text.inputs.splits import SPLITS
from megatron_mmbert.data.text.records import (
    MAX_LINE_BYTES,
    BadLine,
    Document,
    Fields,
    InputFile,
    Record,
    SkippedLines,
    report_bad,
)


def find_inputs(paths: Iterable[Path | str]) -> list[Path]:
    """Return the files named by ``paths``, of all splits, each once and sorted; a folder stands for all files in it.

    Raises:
        UserError: a path is missing, a file is of an unknown kind, or a folder holds no file of a known kind.
    """
    return [file.path for file in find_files(paths, SPLITS).taken]


def open_records(path: Path, fields: Fields, max_bytes: int = MAX_LINE_BYTES) -> Reader:
    """Return the reader of one file: iterating gives (line or row from 1, record)."""
    return format_of(path).open(path, fields, max_bytes)


def parse_record(path: Path, line: int, record: Record, fields: Fields) -> Document | BadLine | None:
    """Return the document of a line or row; a :class:`BadLine` if it holds none; None for a blank line."""
    return record if isinstance(record, BadLine) else format_of(path).parse(path, line, record, fields)


def read_documents(path: Path, text_field: str = "text", skip_bad: SkippedLines | None = None) -> Iterator[Document]:
    """Stream the documents of one file, as :func:`read_file`."""
    return read_file(InputFile(path, None, Fields(text_field)), skip_bad)


def read_file(file: InputFile, skip_bad: SkippedLines | None = None) -> Iterator[Document]:
    """Stream the documents of one file, each once; those that its conditions leave out are passed over.

    Raises:
        UserError: at the first bad line, or at the end of a file without documents; with ``skip_bad`` these are added
            to it instead.
    """
    seen = 0
    for line, record in open_records(file.path, file.fields, file.max_line_bytes):
        document = parse_record(file.path, line, record, file.fields)
        if isinstance(document, Document):
            if document.copies:
                yield document
        elif document is not None:
            report_bad(document, skip_bad)
        seen += document is not None
    if not seen:
        report_bad(empty_file(file.path), skip_bad)


def empty_file(path: Path) -> BadLine:
    """Report a file without any document."""
    return BadLine(str(path), 0, "empty, no documents in it; fill it or take it out of --input")
