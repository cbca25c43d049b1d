"""Text lines to token ids, a chunk at a time: what one worker of the preprocessing does.

The parent only cuts files into chunks of lines; parsing and tokenizing happen in the worker, so that the parent does
not become the bottleneck with many of them. No document's ids depend on another's, so where chunks end changes nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.encoded_documents import NO_DIGEST, ROW, Documents
from megatron_mmbert.data.text.dedup import piece_digest, text_digest
from megatron_mmbert.data.text.document_splitter import DocumentSplitter
from megatron_mmbert.data.text.documents import open_records, parse_record
from megatron_mmbert.data.text.records import MAX_LINE_BYTES, SKIP_REMEDY, BadLine, Document, Fields, Record
from megatron_mmbert.utils.errors import UserError

CHUNK_BYTES = 256 << 10


class Tokenizer(Protocol):
    """The part of a tokenizer that preprocessing uses; ids come without ``<bos>`` and ``<eos>``."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def piece_bytes(self) -> npt.NDArray[np.int32]: ...
    def fingerprint(self) -> str: ...
    def encode_arrays(self, texts: list[str]) -> list[npt.NDArray[np.int32]]: ...


class InputFile(NamedTuple):
    """A file, the language of its documents (None: each line names its own), and how its lines are read."""

    path: Path
    language: str | None
    fields: Fields = Fields()
    max_line_bytes: int = MAX_LINE_BYTES


class Chunk(NamedTuple):
    """Consecutive lines or rows of one file; ``input_bytes`` of the file on disk were read for them."""

    file: InputFile
    first_line: int
    lines: list[Record]
    input_bytes: int
    ends_file: bool


class EncodedChunk(NamedTuple):
    """What became of a chunk: its documents by language, and its bad lines in order."""

    file: InputFile
    documents: list[Documents]
    bad: list[BadLine]
    input_bytes: int
    ends_file: bool


def read_chunks(files: list[InputFile], chunk_bytes: int = CHUNK_BYTES) -> Iterator[Chunk]:
    """Cut files into chunks of about ``chunk_bytes`` of lines; every file ends with a chunk marked ``ends_file``."""
    for file in files:
        reader = open_records(file.path, file.fields, file.max_line_bytes)
        lines: list[Record] = []
        size = read_before = 0
        number = 0
        for number, line in reader:
            lines.append(line)
            size += len(line) if isinstance(line, bytes) else _size(line, file.fields)
            if size >= chunk_bytes:
                yield Chunk(file, number - len(lines) + 1, lines, reader.position - read_before, ends_file=False)
                lines, size, read_before = [], 0, reader.position
        yield Chunk(file, number - len(lines) + 1, lines, file.path.stat().st_size - read_before, ends_file=True)


def _size(record: Record, fields: Fields) -> int:
    return len(record[fields.text]) if isinstance(record, dict) else 64


@dataclass
class _Column:
    """The documents of one language in a chunk."""

    ids: list[npt.NDArray[Any]] = field(default_factory=list)
    rows: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)

    def documents(self, language: str) -> Documents:
        return Documents(language, np.concatenate(self.ids), np.array(self.rows, dtype=ROW))


@dataclass
class TokenizeWorker:
    """A worker's tools. ``dtype`` is the store's; ``dedup``: documents get digests; ``cutter``: for the long ones."""

    tokenizer: Tokenizer
    fields: Fields
    dtype: str
    dedup: bool = False
    cutter: DocumentSplitter | None = None

    def encode(self, chunk: Chunk) -> EncodedChunk:
        """Parse and tokenize one chunk.

        Raises:
            UserError: the tokenizer gives an id outside its vocabulary.
        """
        path = chunk.file.path
        documents: list[Document] = []
        bad: list[BadLine] = []
        for number, line in enumerate(chunk.lines, start=chunk.first_line):
            found = parse_record(path, number, line, self.fields)
            if isinstance(found, Document):
                documents.append(found)
            elif found is not None:
                bad.append(found)
        columns: dict[str, _Column] = {}
        for document, ids in zip(documents, self.tokenizer.encode_arrays([d.text for d in documents]), strict=True):
            if ids.size:
                self._check(document, ids, path)
                language = chunk.file.language or document.language
                assert language is not None  # a line without one is a bad line when the file has none
                self._add(columns.setdefault(language, _Column()), language, document.text, ids)
            else:
                value = repr(document.text[:40])
                bad.append(BadLine(str(path), document.line, f"text {value} gives no token; {SKIP_REMEDY}"))
        bad.sort(key=lambda line: line.line)
        made = [column.documents(language) for language, column in columns.items()]
        return EncodedChunk(chunk.file, made, bad, chunk.input_bytes, chunk.ends_file)

    def _add(self, column: _Column, language: str, text: str, ids: npt.NDArray[np.int32]) -> None:
        digest = text_digest(text) if self.dedup else NO_DIGEST
        stored = ids.astype(self.dtype)
        column.ids.append(stored)
        if self.cutter is None:
            column.rows.append((ids.size, len(text.encode()), len(text.split()), zlib.crc32(stored.data), digest))
            return
        for number, piece in enumerate(self.cutter.cut(language, text, ids)):
            checksum = zlib.crc32(stored[piece.start : piece.stop].data)
            column.rows.append((piece.stop - piece.start, piece.bytes, piece.words, checksum, digest))
            digest = piece_digest(digest, number) if self.dedup else NO_DIGEST

    def _check(self, document: Document, ids: npt.NDArray[Any], path: Path) -> None:
        """Refuse ids that the store could not hold, or that mean something else."""
        worst = int(ids.max()) if ids.max() >= self.tokenizer.vocab_size else int(ids.min())
        if not 0 <= worst < self.tokenizer.vocab_size:
            raise UserError(
                f"{path}:{document.line}: the tokenizer gives id {worst}, outside its vocabulary of "
                f"{self.tokenizer.vocab_size}; the tokenizer folder mixes files of two tokenizers, export it again"
            )
