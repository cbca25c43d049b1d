"""Texts to compute something from: one for every line of a ``.txt`` and every record, so that none shifts the others.

For training an empty document is a mistake; here it is a text like others, and stands where its neighbours in other
files expect it (the lines of a translation, the rows of a table). Blank lines of a ``.jsonl`` are no records.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.data.text.documents import empty_file, open_records, parse_record
from megatron_mmbert.data.text.formats import format_of
from megatron_mmbert.data.text.line_reader import parse_text_line
from megatron_mmbert.data.text.records import SKIP_REMEDY, BadLine, Document, Fields, Record
from megatron_mmbert.utils.errors import UserError

_REMEDIES = (f"; raise --max-line-bytes, or {SKIP_REMEDY}", f"; {SKIP_REMEDY}")


class Text(NamedTuple):
    """A text, the line or row of its file from 1, and the record's own id where it has one."""

    line: int
    text: str
    id: str | None = None


def read_texts(path: Path, text_field: str = "text") -> Iterator[Text]:
    """Stream the texts of one file; a null is an empty text.

    Raises:
        UserError: at the first line that holds no text, or at the end of a file without lines.
    """
    fields = Fields(text_field)
    is_empty = True
    for line, record in open_records(path, fields):
        text = _text_of(path, line, record, fields)
        if text is not None:
            is_empty = False
            yield text
    if is_empty:
        raise UserError(str(empty_file(path)))


def _text_of(path: Path, line: int, record: Record, fields: Fields) -> Text | None:
    """Return the text of a record; None if the line is none."""
    document = parse_record(path, line, record, fields)
    if isinstance(document, Document):
        own_id = None if document.id == f"{path.name}:{line}" else document.id
        return Text(line, document.text, own_id)
    if isinstance(record, bytes) and format_of(path).parse is parse_text_line and document is None:
        return Text(line, record.decode("utf-8").rstrip("\r\n"))
    if document is None:
        return None
    empty = _empty_text(line, record, fields.text)
    if empty is None:
        raise UserError(_without_skip(document))
    return empty


def _empty_text(line: int, record: Record, field: str) -> Text | None:
    """Return the text of a record whose text is null or white space; None for a record that is bad otherwise."""
    if isinstance(record, BadLine):
        return Text(line, "") if record.reason.startswith(f"field {field!r} is null") else None
    values: Any = record
    if isinstance(record, bytes):
        try:
            values = json.loads(record)
        except (ValueError, RecursionError):
            return None
    if not isinstance(values, dict) or field not in values:
        return None
    text, own_id = values[field], values.get("id")
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    if text is not None and (not isinstance(text, str) or text.strip()):
        return None
    own_id = own_id.decode("utf-8", "replace") if isinstance(own_id, bytes) else own_id
    return Text(line, text or "", str(own_id) if isinstance(own_id, str | int) else None)


def _without_skip(bad: BadLine) -> str:
    """Return the sentence for a bad line where it cannot be left out: its row would be missing."""
    reason = bad.reason
    for remedy in _REMEDIES:
        reason = reason.removesuffix(remedy)
    sentence = str(bad._replace(reason=reason))
    return sentence if reason == bad.reason else f"{sentence}; fix the line, or take it out of the file"
