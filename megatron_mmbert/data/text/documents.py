"""Reading documents: which files there are, one document per line or row, and what to do with one that holds none.

A ``.jsonl`` line is a JSON object with the text in one field; a ``.txt`` line is a document by itself; either may be
compressed by gzip or zstandard. A ``.parquet`` row is a document too. Lines of nothing but white space separate and are
passed over. Everything else that holds no text is a *bad line*: it stops the command with its file, line, value and
remedy, or, when the user asks for it, it is counted and listed and work goes on. A new format needs an entry in
``ENDINGS`` and a reader in ``open_records`` (``lines.py`` and ``parquet.py`` are the two there are).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from megatron_mmbert.data.text.line_reader import COMPRESSIONS, LineReader
from megatron_mmbert.data.text.parquet_reader import RowReader
from megatron_mmbert.data.text.records import (
    MAX_LINE_BYTES,
    SKIP_REMEDY,
    BadLine,
    Document,
    Fields,
    Record,
    SkippedLines,
    document_of,
    is_language,
    not_utf8,
    report_bad,
    short,
)
from megatron_mmbert.utils.errors import UserError

ENDINGS = (*(kind + packed for kind in (".jsonl", ".txt") for packed in ("", *COMPRESSIONS)), ".parquet")


def find_inputs(paths: Iterable[Path | str]) -> list[Path]:
    """Files named by ``paths``, each once and sorted; a folder stands for all files of a known kind below it.

    Raises:
        UserError: a path is missing, a file is of an unknown kind, or a folder holds no file of a known kind.
    """
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        if path.is_dir():
            files = [file for file in path.rglob("*") if _is_visible(file, path) and file.is_file()]
            files = [file for file in files if file.name.endswith(ENDINGS)]
            if not files:
                raise UserError(f"{path}: no {', '.join(ENDINGS)} file in this folder; check --input")
        elif not path.exists():
            raise UserError(f"{path}: no such file or folder; check --input")
        elif not path.name.endswith(ENDINGS):
            raise UserError(f"{path}: unknown kind of file; convert it to one of {', '.join(ENDINGS)}")
        else:
            files = [path]
        # The same file reached twice would be in the data twice.
        found.update((file.resolve(), file) for file in files)
    return sorted(found.values())


def language_of(path: Path) -> str:
    """The language a file's name gives: ``eng_Latn.001.jsonl.gz`` is ``eng_Latn``.

    Raises:
        UserError: the name gives none.
    """
    language = path.name.split(".", 1)[0]
    if not is_language(language):
        raise UserError(f"{path}: the name gives no language; rename it to CODE_Script.jsonl or pass --language")
    return language


def open_records(path: Path, fields: Fields, most: int = MAX_LINE_BYTES) -> LineReader | RowReader:
    """The reader of one file: iterating gives (number from 1, record), ``position`` the bytes read on the disk."""
    return RowReader(path, fields, most) if path.suffix == ".parquet" else LineReader(path, most)


def parse_record(path: Path, number: int, record: Record, fields: Fields) -> Document | BadLine | None:
    """The document of a line or row; a :class:`BadLine` if it holds none; None for a line of white space."""
    if isinstance(record, BadLine):
        return record
    if isinstance(record, bytes):
        return _parse_line(path, number, record, fields)
    row: dict[str, Any] = {}
    for name, value in record.items():
        try:
            row[name] = value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            return not_utf8(path, number, value, error.start)
    found = document_of(row, fields, path.name, number)
    return BadLine(str(path), number, f"{found}; {SKIP_REMEDY}") if isinstance(found, str) else found


def read_documents(path: Path, text_field: str = "text", skip_bad: SkippedLines | None = None) -> Iterator[Document]:
    """Stream the documents of one file.

    Raises:
        UserError: at the first bad line, or at the end of a file without documents; with ``skip_bad`` these are added
            to it instead.
    """
    seen = 0
    fields = Fields(text_field)
    for number, record in open_records(path, fields):
        found = parse_record(path, number, record, fields)
        if isinstance(found, Document):
            yield found
        elif found is not None:
            report_bad(found, skip_bad)
        seen += found is not None
    if not seen:
        report_bad(empty_file(path), skip_bad)


def empty_file(path: Path) -> BadLine:
    """The report on a file without any document."""
    return BadLine(str(path), 0, "empty, no documents in it; fill it or take it out of --input")


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _parse_line(path: Path, number: int, raw: bytes, fields: Fields) -> Document | BadLine | None:
    """The document of one raw line."""
    if not raw.strip():
        return None
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(path, number, raw, error.start)
    if not line.strip():  # white space that is not ASCII
        return None
    if ".txt" in path.suffixes[-2:]:
        return Document(f"{path.name}:{number}", line.rstrip("\r\n"), number)
    found = _parse_json(line.strip(), fields, path.name, number)
    return BadLine(str(path), number, f"{found}; {SKIP_REMEDY}") if isinstance(found, str) else found


def _parse_json(line: str, fields: Fields, file_name: str, number: int) -> Document | str:
    """The document of a ``.jsonl`` line, or what is wrong with the line."""
    try:
        record: Any = json.loads(line)
    except json.JSONDecodeError as error:
        return f"malformed JSON ({error.msg}, column {error.colno}) in {short(line)}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        return f"malformed JSON ({error}) in {short(line)}"
    return document_of(record, fields, file_name, number)
