"""The records of corpus files: documents, bad lines that hold none, and the sentences that report them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from megatron_mmbert.data.text.conditions import CLUSTER_FIELD, Condition, cluster_copies
from megatron_mmbert.utils.errors import UserError, nearest
from megatron_mmbert.utils.files import to_json
from megatron_mmbert.utils.names import is_name

SKIP_REMEDY = "fix the line, or pass --skip-bad to leave such lines out"
MAX_LINE_BYTES = 64 << 20
"""Longest line read by default. Parsing and tokenizing a line takes many times its size in memory."""


class Document(NamedTuple):
    """One text document.

    ``id`` is the line's own ``id`` or ``FILE:LINE``; ``line`` counts from 1; ``copies``: how often it is taken, 0 if a
    condition leaves it out.
    """

    id: str
    text: str
    line: int
    language: str | None = None
    copies: int = 1


class BadLine(NamedTuple):
    """A line that holds no document. ``line`` counts from 1; 0 means the whole file."""

    file: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}" if self.line else f"{self.file}: {self.reason}"


Record = bytes | dict[str, Any] | BadLine
"""A raw line; a row of a table, its text still UTF-8; or the report on a line or row too long to be handed on."""


class Fields(NamedTuple):
    """The fields that a record is taken by.

    Attributes:
        text: the field with its text.
        language: the field with its language, or several joined by ``+`` whose values ``_`` joins; None: its file has
            one.
        where: conditions on other fields; a record that does not meet all of them is left out.
        rehydrate: take a document as often as FineWeb2 does by the size of its MinHash cluster.
    """

    text: str = "text"
    language: str | None = None
    where: tuple[Condition, ...] = ()
    rehydrate: bool = False

    @property
    def languages(self) -> tuple[str, ...]:
        """The fields that make the language."""
        return tuple(self.language.split("+")) if self.language else ()

    @property
    def others(self) -> tuple[str, ...]:
        """The fields that conditions and copies ask for."""
        return (*(condition.field for condition in self.where), *([CLUSTER_FIELD] if self.rehydrate else []))


class InputFile(NamedTuple):
    """A file, the language of its documents (None: each line names its own), and how its lines are read."""

    path: Path
    language: str | None
    fields: Fields = Fields()
    max_line_bytes: int = MAX_LINE_BYTES


@dataclass
class SkippedLines:
    """Bad lines left out: their count, the first few, and all of them in ``record`` (one JSON object per line)."""

    record: TextIO | None = None
    count: int = 0
    first: list[BadLine] = field(default_factory=list)
    keep: int = 5

    def add(self, bad: BadLine) -> None:
        self.count += 1
        if len(self.first) < self.keep:
            self.first.append(bad)
        if self.record is not None:
            self.record.write(to_json(bad._asdict(), ensure_ascii=False) + "\n")


def report_bad(bad: BadLine, skip_bad: SkippedLines | None) -> None:
    """Add ``bad`` to ``skip_bad``, or stop.

    Raises:
        UserError: ``skip_bad`` is None.
    """
    if skip_bad is None:
        raise UserError(str(bad))
    skip_bad.add(bad)


def too_long(file: object, line: int, max_bytes: int) -> BadLine:
    """Report a line that is not read because of its length."""
    return BadLine(str(file), line, f"longer than {max_bytes} bytes; raise --max-line-bytes, or {SKIP_REMEDY}")


def damaged(file: object, where: str, error: Exception) -> BadLine:
    """Report that nothing can be read of a file from some place on; ``where``: its kind and that place."""
    reason = " ".join(str(error).split())[:120] or type(error).__name__
    return BadLine(str(file), 0, f"damaged {where} ({reason}); copy it again")


def not_utf8(file: object, line: int, raw: bytes, offset: int) -> BadLine:
    """Report bytes that are no text, the first wrong one at ``offset``."""
    return BadLine(str(file), line, f"byte {raw[offset]:#04x} at column {offset + 1} is not UTF-8; {SKIP_REMEDY}")


def document_of(record: Any, fields: Fields, file_name: str, line: int) -> Document | str:
    """Return the document that a parsed line or row holds, or the reason why it holds none."""
    if not isinstance(record, dict):
        return f"not a JSON object but {short(record)}"
    if fields.text not in record:
        has = ", ".join(map(repr, record)) or "no field"
        return f"no field {fields.text!r}{nearest(fields.text, record)}, the line has {short(has, quote=False)}"
    text = record[fields.text]
    if not isinstance(text, str):
        return f"field {fields.text!r} is {short(text)}, not a string"
    if not text.strip():
        return f"field {fields.text!r} is {short(text)}, without text"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"field {fields.text!r} holds {text[error.start]!a}, half of a surrogate pair, which is no character"
    for named_in in fields.languages:
        if not is_name(record.get(named_in)):
            return f"language field {named_in!r} is {short(record.get(named_in))}, which names no language"
    language = "_".join(record[named_in] for named_in in fields.languages) or None
    copies = _copies(record, fields)
    if isinstance(copies, str):
        return copies
    name = record.get("id")
    return Document(str(name) if isinstance(name, str | int) else f"{file_name}:{line}", text, line, language, copies)


def _copies(record: dict[str, Any], fields: Fields) -> int | str:
    """Return how often a record is taken, or the reason why that cannot be told."""
    for condition in fields.where:
        holds = condition.holds(record)
        if not holds:
            return 0
        if isinstance(holds, str):
            return holds
    return cluster_copies(record) if fields.rehydrate else 1


def short(value: object, quote: bool = True, max_characters: int = 60) -> str:
    """Return ``value`` for a message, cut to ``max_characters``."""
    text = repr(value) if quote else str(value)
    return text if len(text) <= max_characters else text[: max_characters - 3] + "..."
