"""Text lines to token ids, a batch at a time: the work of one process of the preprocessing.

The parent only cuts files into batches of lines; parsing and tokenizing happen in the worker, so that the parent does
not become the bottleneck with many of them. No document's ids depend on another's, so where batches end changes
nothing.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.tokenized_documents import NO_DIGEST, ROW, TokenizedDocuments
from megatron_mmbert.data.text.dedup import chunk_digest, text_digest
from megatron_mmbert.data.text.document_splitter import DocumentSplitter
from megatron_mmbert.data.text.documents import open_records, parse_record
from megatron_mmbert.data.text.records import SKIP_REMEDY, BadLine, Document, Fields, InputFile, Record
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.errors import UserError

BATCH_BYTES = 256 << 10


class LineBatch(NamedTuple):
    """Consecutive lines or rows of one file; ``input_bytes`` of the file on disk were read for them."""

    file: InputFile
    first_line: int
    lines: list[Record]
    input_bytes: int
    ends_file: bool


class TokenizedBatch(NamedTuple):
    """The documents of a batch of lines by language, its bad lines in order, and how many a condition left out."""

    file: InputFile
    documents: list[TokenizedDocuments]
    bad: list[BadLine]
    input_bytes: int
    ends_file: bool
    left_out: int = 0


def read_batches(files: list[InputFile], batch_bytes: int = BATCH_BYTES) -> Iterator[LineBatch]:
    """Cut files into batches of about ``batch_bytes`` of lines; every file ends with one marked ``ends_file``."""
    for file in files:
        reader = open_records(file.path, file.fields, file.max_line_bytes)
        lines: list[Record] = []
        size = read_before = 0
        number = 0
        for number, line in reader:
            lines.append(line)
            size += len(line) if isinstance(line, bytes) else _size(line, file.fields)
            if size >= batch_bytes:
                yield LineBatch(file, number - len(lines) + 1, lines, reader.position - read_before, ends_file=False)
                lines, size, read_before = [], 0, reader.position
        yield LineBatch(file, number - len(lines) + 1, lines, file.path.stat().st_size - read_before, ends_file=True)


def _size(record: Record, fields: Fields) -> int:
    return len(record[fields.text]) if isinstance(record, dict) else 64


@dataclass
class _DocumentList:
    """The documents of one language in a batch."""

    ids: list[npt.NDArray[Any]] = field(default_factory=list)
    rows: list[tuple[int, int, int, int, bytes]] = field(default_factory=list)

    def as_columns(self, language: str) -> TokenizedDocuments:
        return TokenizedDocuments(language, np.concatenate(self.ids), np.array(self.rows, dtype=ROW))


@dataclass
class TokenizeWorker:
    """The tokenizer of one process and its settings.

    Attributes:
        dtype: the store's.
        dedup: documents get digests.
        splitter: cuts long documents; None: they stay whole.
    """

    tokenizer: Tokenizer
    fields: Fields
    dtype: str
    dedup: bool = False
    splitter: DocumentSplitter | None = None

    def tokenize(self, batch: LineBatch) -> TokenizedBatch:
        """Parse and tokenize one batch.

        Raises:
            UserError: the tokenizer gives an id outside its vocabulary.
        """
        path = batch.file.path
        documents: list[Document] = []
        bad: list[BadLine] = []
        left_out = 0
        for number, line in enumerate(batch.lines, start=batch.first_line):
            parsed = parse_record(path, number, line, self.fields)
            if isinstance(parsed, Document):
                left_out += not parsed.copies
                if parsed.copies:
                    documents.append(parsed)
            elif parsed is not None:
                bad.append(parsed)
        tokenized = self.tokenize_documents(documents, batch.file, bad)
        bad.sort(key=lambda line: line.line)
        return TokenizedBatch(batch.file, tokenized, bad, batch.input_bytes, batch.ends_file, left_out)

    def tokenize_documents(
        self, documents: list[Document], file: InputFile, bad: list[BadLine]
    ) -> list[TokenizedDocuments]:
        """Tokenize documents of ``file``, or whose own language counts; those that give no token are added to ``bad``.

        Raises:
            UserError: the tokenizer gives an id outside its vocabulary.
        """
        return self.with_ids(documents, self.tokenizer.encode_arrays([d.text for d in documents]), file, bad)

    def with_ids(
        self, documents: list[Document], every_ids: list[npt.NDArray[Any]], file: InputFile, bad: list[BadLine]
    ) -> list[TokenizedDocuments]:
        """Return documents whose ids are known, as :meth:`tokenize_documents`."""
        by_language: dict[str, _DocumentList] = {}
        for document, ids in zip(documents, every_ids, strict=True):
            if ids.size:
                self._check(document, ids, file.path)
                language = file.language or document.language
                assert language is not None  # a line without one is a bad line when the file has none
                for _ in range(document.copies):
                    self._add(by_language.setdefault(language, _DocumentList()), language, document.text, ids)
            else:
                value = repr(document.text[:40])
                bad.append(BadLine(str(file.path), document.line, f"text {value} gives no token; {SKIP_REMEDY}"))
        return [documents.as_columns(language) for language, documents in by_language.items()]

    def _add(self, documents: _DocumentList, language: str, text: str, ids: npt.NDArray[Any]) -> None:
        """Append one document, or its chunks."""
        digest = text_digest(text) if self.dedup else NO_DIGEST
        stored = ids.astype(self.dtype)
        documents.ids.append(stored)
        if self.splitter is None:
            documents.rows.append((ids.size, len(text.encode()), len(text.split()), zlib.crc32(stored.data), digest))
            return
        for index, chunk in enumerate(self.splitter.split(language, text, ids)):
            checksum = zlib.crc32(stored[chunk.start : chunk.stop].data)
            documents.rows.append((chunk.stop - chunk.start, chunk.bytes, chunk.words, checksum, digest))
            digest = chunk_digest(digest, index) if self.dedup else NO_DIGEST

    def _check(self, document: Document, ids: npt.NDArray[Any], path: Path) -> None:
        """Check that the store can hold the ids, and that they mean what the vocabulary says."""
        worst = int(ids.max()) if ids.max() >= self.tokenizer.vocab_size else int(ids.min())
        if not 0 <= worst < self.tokenizer.vocab_size:
            raise UserError(
                f"{path}:{document.line}: the tokenizer gives id {worst}, outside its vocabulary of "
                f"{self.tokenizer.vocab_size}; the tokenizer folder mixes files of two tokenizers, export it again"
            )
