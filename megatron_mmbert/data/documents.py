"""Reading documents: which files there are, one document per line, and what to do with a line that is none.

A ``.jsonl`` line is a JSON object with the text in one field; a ``.txt`` line is a document by itself; either may be
gzipped. Lines of nothing but white space separate and are passed over. Everything else that holds no text is a *bad
line*: it stops the command with its file, line, value and remedy, or, when the user asks for it, it is counted and
listed and work goes on. A new format needs an entry in ``ENDINGS`` and a branch in ``read_lines`` (another compression)
or in ``parse_line`` (another record).
"""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TextIO

from megatron_mmbert.errors import UserError, nearest

ENDINGS = (".jsonl", ".jsonl.gz", ".txt", ".txt.gz")
SKIP_REMEDY = "mend the line, or pass --skip-bad to leave such lines out"
_BOM = b"\xef\xbb\xbf"


class Document(NamedTuple):
    """One text document. ``id`` is the line's own ``id`` or ``FILE:LINE``; ``line`` counts from 1."""

    id: str
    text: str
    line: int
    language: str | None = None


class BadLine(NamedTuple):
    """A line that holds no document. ``line`` counts from 1; 0 means the whole file."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


class Fields(NamedTuple):
    """Where a ``.jsonl`` line keeps its text, and its language if the file's name does not give it."""

    text: str = "text"
    language: str | None = None


@dataclass
class SkippedLines:
    """Bad lines left out: their number, the first few, and all of them in ``record`` (one JSON object per line)."""

    record: TextIO | None = None
    count: int = 0
    first: list[BadLine] = field(default_factory=list)
    keep: int = 5

    def add(self, bad: BadLine) -> None:
        self.count += 1
        if len(self.first) < self.keep:
            self.first.append(bad)
        if self.record is not None:
            self.record.write(json.dumps(bad._asdict(), ensure_ascii=False) + "\n")


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


def is_language(name: object) -> bool:
    """Whether ``name`` can name a language: a non-empty string of printable characters without spaces."""
    return isinstance(name, str) and name != "" and name.isprintable() and not any(map(str.isspace, name))


class LineReader:
    """The lines of one file as bytes, with the position in the file on disk (for progress, also of gzip)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._raw: BinaryIO | None = None
        self._read = 0

    @property
    def position(self) -> int:
        """Bytes of the file on disk read so far."""
        return self._read if self._raw is None else self._raw.tell()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(line number from 1, line with its end), a byte order mark removed.

        Raises:
            UserError: the file cannot be opened, or its gzip stream is damaged.
        """
        number = 0
        try:
            with self.path.open("rb") as self._raw:
                stream: Iterable[bytes] = self._raw
                if self.path.suffix == ".gz":
                    stream = io.BufferedReader(gzip.GzipFile(fileobj=self._raw), 1 << 20)  # type: ignore[arg-type]
                for number, line in enumerate(stream, start=1):
                    yield number, line.removeprefix(_BOM) if number == 1 else line
                self._read = self._raw.tell()
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.path}: damaged gzip after line {number} ({error}); copy it again") from None
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
        finally:
            self._raw = None


def parse_line(path: Path, number: int, raw: bytes, fields: Fields) -> Document | BadLine | None:
    """The document on one line; a :class:`BadLine` if it holds none; None for a line of white space."""
    if not raw.strip():
        return None
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        value = raw[error.start]
        return BadLine(str(path), number, f"byte {value:#04x} at column {error.start + 1} is not UTF-8; {SKIP_REMEDY}")
    if path.name.removesuffix(".gz").endswith(".txt"):
        if not line.strip():  # white space that is not ASCII
            return None
        return Document(f"{path.name}:{number}", line.rstrip("\r\n"), number)
    found = _parse_json(path, number, line, fields)
    return BadLine(str(path), number, f"{found}; {SKIP_REMEDY}") if isinstance(found, str) else found


def read_documents(path: Path, text_field: str = "text", skip_bad: SkippedLines | None = None) -> Iterator[Document]:
    """Stream the documents of one file.

    Raises:
        UserError: at the first bad line, or at the end of a file without documents; with ``skip_bad`` these are added
            to it instead.
    """
    seen = 0
    for number, raw in LineReader(path):
        found = parse_line(path, number, raw, Fields(text_field))
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


def report_bad(bad: BadLine, skip_bad: SkippedLines | None) -> None:
    """Add ``bad`` to ``skip_bad``, or stop.

    Raises:
        UserError: ``skip_bad`` is None.
    """
    if skip_bad is None:
        raise UserError(str(bad))
    skip_bad.add(bad)


def _is_visible(file: Path, folder: Path) -> bool:
    return not any(part.startswith(".") for part in file.relative_to(folder).parts)


def _parse_json(path: Path, number: int, line: str, fields: Fields) -> Document | str:
    """The document of a ``.jsonl`` line, or what is wrong with the line."""
    try:
        record: Any = json.loads(line.strip())
    except json.JSONDecodeError as error:
        return f"malformed JSON ({error.msg}, column {error.colno}) in {_short(line.strip())}"
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, a thousand brackets
        return f"malformed JSON ({error}) in {_short(line.strip())}"
    if not isinstance(record, dict):
        return f"not a JSON object but {_short(record)}"
    if fields.text not in record:
        has = ", ".join(map(repr, record)) or "no field"
        return f"no field {fields.text!r}{nearest(fields.text, record)}, the line has {_short(has, quote=False)}"
    text = record[fields.text]
    if not isinstance(text, str):
        return f"field {fields.text!r} is {_short(text)}, not a string"
    if not text.strip():
        return f"field {fields.text!r} is {_short(text)}, without text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"field {fields.text!r} holds {text[error.start]!a}, half of a surrogate pair, which is no character"
    language = record.get(fields.language) if fields.language else None
    if fields.language and not is_language(language):
        return f"language field {fields.language!r} is {_short(language)}, which names no language"
    name = record.get("id")
    return Document(str(name) if isinstance(name, str | int) else f"{path.name}:{number}", text, number, language)


def _short(value: object, quote: bool = True, most: int = 60) -> str:
    text = repr(value) if quote else str(value)
    return text if len(text) <= most else text[: most - 3] + "..."
