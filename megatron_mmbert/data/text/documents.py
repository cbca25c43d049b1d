"""Reading documents: finding the input files, one document per line or row, and reporting a line that holds none.

Blank lines separate and are passed over. Everything else that holds no text is a *bad line*: it stops the command with
its file, line, value and remedy, or, when the user asks for it, it is counted and listed and work continues. The
formats are the rows of ``formats.FORMATS``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from megatron_mmbert.data.text.formats import ENDINGS, Reader, format_of
from megatron_mmbert.data.text.records import (
    MAX_LINE_BYTES,
    BadLine,
    Document,
    Fields,
    Record,
    SkippedLines,
    is_language,
    report_bad,
)
from megatron_mmbert.utils.errors import UserError


def find_inputs(paths: Iterable[Path | str]) -> list[Path]:
    """Return the files named by ``paths``, each once and sorted; a folder stands for all files of a known kind in it.

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
        else:
            format_of(path)
            files = [path]
        # The same file reached twice would be in the data twice.
        found.update((file.resolve(), file) for file in files)
    return sorted(found.values())


def language_of(path: Path) -> str:
    """Return the language a file's name gives: ``eng_Latn.001.jsonl.gz`` is ``eng_Latn``.

    Raises:
        UserError: the name gives none.
    """
    language = path.name.split(".", 1)[0]
    if not is_language(language):
        raise UserError(f"{path}: the name gives no language; rename it to CODE_Script.jsonl or pass --language")
    return language


def open_records(path: Path, fields: Fields, max_bytes: int = MAX_LINE_BYTES) -> Reader:
    """Return the reader of one file: iterating gives (line or row from 1, record)."""
    return format_of(path).open(path, fields, max_bytes)


def parse_record(path: Path, line: int, record: Record, fields: Fields) -> Document | BadLine | None:
    """Return the document of a line or row; a :class:`BadLine` if it holds none; None for a blank line."""
    return record if isinstance(record, BadLine) else format_of(path).parse(path, line, record, fields)


def read_documents(path: Path, text_field: str = "text", skip_bad: SkippedLines | None = None) -> Iterator[Document]:
    """Stream the documents of one file.

    Raises:
        UserError: at the first bad line, or at the end of a file without documents; with ``skip_bad`` these are added
            to it instead.
    """
    seen = 0
    fields = Fields(text_field)
    for line, record in open_records(path, fields):
        document = parse_record(path, line, record, fields)
        if isinstance(document, Document):
            yield document
        elif document is not None:
            report_bad(document, skip_bad)
        seen += document is not None
    if not seen:
        report_bad(empty_file(path), skip_bad)


def empty_file(path: Path) -> BadLine:
    """Report a file without any document."""
    return BadLine(str(path), 0, "empty, no documents in it; fill it or take it out of --input")


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(name.startswith(".") for name in file.relative_to(folder).parts)
