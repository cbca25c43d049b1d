"""The format ``.parquet``: reading the rows of a file, a few at a time, and parsing one.

Only the columns that are needed are read. Rows are decoded in small batches, because a dictionary page can hold one
long value that thousands of rows refer to: memory is bounded by a batch of the longest value and one page.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from megatron_mmbert.data.text.line_reader import arrow
from megatron_mmbert.data.text.records import (
    SKIP_REMEDY,
    BadLine,
    Document,
    Fields,
    Record,
    damaged,
    document_of,
    not_utf8,
    too_long,
)
from megatron_mmbert.utils.errors import UserError, nearest

_ROWS_AT_ONCE = 32
_BUFFER = 1 << 20


class RowReader:
    """The rows of one file as records, with about the position in the file on disk."""

    def __init__(self, path: Path, fields: Fields, max_bytes: int) -> None:
        self.path = path
        self._fields = fields
        self._max_bytes = max_bytes
        self.position = 0

    def __iter__(self) -> Iterator[tuple[int, Record]]:
        """Yield (row number from 1, row); a file without a column that is needed gives one bad line instead.

        Raises:
            UserError: the file cannot be opened or read.
        """
        pa = arrow(self.path)
        import pyarrow.parquet as parquet  # here, as pyarrow is optional

        number = 0
        try:
            size = self.path.stat().st_size
            if not size:
                return
            with parquet.ParquetFile(
                self.path, pre_buffer=False, buffer_size=_BUFFER, memory_map=False, page_checksum_verification=True
            ) as file:
                problem = self._schema_problem(file.schema_arrow)
                if problem:
                    yield 1, BadLine(str(self.path), 0, problem)
                    return
                total = max(file.metadata.num_rows, 1)
                columns = self._columns(file.schema_arrow)
                for batch in file.iter_batches(_ROWS_AT_ONCE, columns=columns, use_threads=False):
                    for record in self._rows(pa, batch):
                        number += 1
                        self.position = size * min(number, total) // total
                        yield number, self._checked(number, record)
                if number != file.metadata.num_rows:
                    raise ValueError(f"its index says {file.metadata.num_rows} rows")
        except (pa.ArrowException, OSError, ValueError, MemoryError, OverflowError, RuntimeError, TypeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise UserError(f"{self.path}: cannot be read ({error.strerror or error})") from None
            yield number + 1, damaged(self.path, f"parquet after row {number}", error)

    def _columns(self, schema: Any) -> list[str]:
        """Return the columns to read, each once."""
        others = [_column(name, schema) for name in self._fields.others]
        wanted = [self._fields.text, *self._fields.languages, "id", *others]
        return list(dict.fromkeys(name for name in wanted if name in schema.names))

    def _schema_problem(self, schema: Any) -> str | None:
        """Return the reason why the file as a whole is unusable, or None."""
        for name in (self._fields.text, *self._fields.languages):
            if schema.names.count(name) != 1:
                has = ", ".join(map(repr, schema.names))[:60]
                return f"no column {name!r}{nearest(name, schema.names)}, the file has {has}; check --text-field"
            kind = schema.field(name).type
            held = kind.value_type if hasattr(kind, "index_type") else kind  # a dictionary's
            if str(held) not in ("string", "large_string", "string_view"):
                return f"column {name!r} is {kind}, not a string; check --text-field"
        for name in self._fields.others:
            if schema.names.count(_column(name, schema)) != 1:
                has = ", ".join(map(repr, schema.names))[:60]
                return f"no column {name!r}{nearest(name, schema.names)}, the file has {has}; check --where"
        return None

    def _rows(self, pa: Any, batch: Any) -> Iterator[dict[str, Any]]:
        """Yield the rows of a batch; text stays bytes, so that bad UTF-8 is one bad row and no exception."""
        columns: dict[str, list[Any]] = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_dictionary(column.type):
                column = column.dictionary_decode()
            if str(column.type) in ("string", "large_string", "string_view"):
                column = column.cast(pa.large_binary())
            columns[name] = column.to_pylist()
        for values in zip(*columns.values(), strict=True):
            yield dict(zip(columns, values, strict=True))

    def _checked(self, number: int, record: dict[str, Any]) -> Record:
        text = record[self._fields.text]
        if text is not None and len(text) > self._max_bytes:
            return too_long(self.path, number, self._max_bytes)
        if text is None:
            reason = f"field {self._fields.text!r} is null, not a string; {SKIP_REMEDY}"
            return BadLine(str(self.path), number, reason)
        return record


def _column(name: str, schema: Any) -> str:
    """Return the column with a field: for ``quality.score`` it may be ``quality``."""
    return name if name in schema.names else name.partition(".")[0]


def parse_row(path: Path, row: int, record: dict[str, Any], fields: Fields) -> Document | BadLine:
    """Return the document of a row whose strings are still UTF-8."""
    values: dict[str, Any] = {}
    for name, value in record.items():
        try:
            values[name] = value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            return not_utf8(path, row, value, error.start)
    document = document_of(values, fields, path.name, row)
    return BadLine(str(path), row, f"{document}; {SKIP_REMEDY}") if isinstance(document, str) else document
