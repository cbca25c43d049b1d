"""Writing a token store: shards cut at a size, checksums, and the entries of the manifest.

Shards are Megatron's ``.bin``/``.idx``, written here as they come: its own builder keeps a Python object per document
and length until the end. Beside each lies ``NAME.crc32``, one little-endian uint32 per document, because a checksum of
the whole shard can only say that two gigabytes are bad, not which document.
"""

from __future__ import annotations

import hashlib
import os
from io import BufferedRandom
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.index_format import (
    BIN_ENDING,
    HEADER_BYTES,
    IDX_ENDING,
    LENGTH_BYTES,
    OFFSET_BYTES,
    pack_header,
)
from megatron_mmbert.data.store.manifest import DatasetEntry, Extent, ShardEntry
from megatron_mmbert.data.store.tokenized_documents import TokenizedDocuments

CRC_ENDING = ".crc32"
CRC_BYTES = 4
SHARD_BYTES = 2 << 30
_LENGTHS_AT_ONCE = 1 << 20


class StoreWriter:
    """Writes the documents of one source into ``folder``; all documents of a language must come one after another.

    A shard is cut before the document that would take its ``.bin`` over ``shard_bytes``; a document is never cut.
    """

    def __init__(self, folder: Path, source: str | None, dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
        """``source``: None if the languages of the documents are names of datasets, ``SOURCE/LANGUAGE``."""
        self._folder = folder
        self._source = source
        self._dtype = np.dtype(dtype)
        self._shard_bytes = shard_bytes
        self._counts: dict[str, _DatasetCounts] = {}
        self._language: str | None = None
        self._shard: _ShardFiles | None = None
        self.shards: list[ShardEntry] = []

    def add(self, documents: TokenizedDocuments) -> None:
        """Append documents.

        Raises:
            ValueError: the documents of a language do not come one after another, or the dtype is wrong.
        """
        language, ids, rows = documents
        if ids.dtype != self._dtype:
            raise ValueError(f"ids are {ids.dtype}, the store is {self._dtype}")
        if language != self._language and language in self._counts:
            raise ValueError(f"documents of {language} are scattered")
        ends = np.cumsum(rows["tokens"])
        first = begin = 0
        while first < rows.size:
            if self._shard is None:
                self._shard = _ShardFiles(self._folder / f"shard-{len(self.shards):05d}", self._dtype)
            room = (self._shard_bytes - self._shard.bytes) // self._dtype.itemsize
            stop = max(first, int(np.searchsorted(ends, begin + room, side="right")))
            if stop == first and self._shard.documents == 0:
                stop += 1  # a document larger than a shard has one of its own
            if stop == first:
                self._close_shard()
                continue
            self._language = language
            counts = self._counts.setdefault(language, _DatasetCounts())
            counts.add(rows[first:stop], len(self.shards), self._shard.documents)
            end = int(ends[stop - 1])
            self._shard.add(ids[begin:end], rows[first:stop])
            first, begin = stop, end

    def finish(self) -> tuple[DatasetEntry, ...]:
        """Close the last shard and return the entries of all datasets, in the order written."""
        if self._shard is not None:
            self._close_shard()
        return tuple(
            counts.entry(*((self._source, name) if self._source is not None else split_dataset(name)))
            for name, counts in self._counts.items()
        )

    def _close_shard(self) -> None:
        assert self._shard is not None
        self.shards.append(self._shard.close())
        self._shard = None


def split_dataset(name: str) -> tuple[str, str]:
    """Return source and language of a dataset's name ``SOURCE/LANGUAGE``; of a language alone the source is empty."""
    source, _, language = name.rpartition("/")
    return source, language


class _ShardFiles:
    """The three files of a shard in writing; the index holds the lengths so far, after room for its header."""

    def __init__(self, prefix: Path, dtype: np.dtype[Any]) -> None:
        self.documents = self.bytes = 0
        self._prefix = prefix
        self._dtype = dtype
        self._bin, self._index, self._crc = (
            Path(f"{prefix}{ending}").open("wb+") for ending in (BIN_ENDING, IDX_ENDING, CRC_ENDING)
        )
        self._index.write(bytes(HEADER_BYTES))
        self._bin_hash = hashlib.sha256()

    def add(self, ids: npt.NDArray[Any], rows: npt.NDArray[Any]) -> None:
        """Append documents."""
        content = np.ascontiguousarray(ids).data
        self._bin.write(content)
        self._bin_hash.update(content)
        self._index.write(rows["tokens"].astype("<i4").tobytes())
        self._crc.write(rows["crc32"].tobytes())
        self.documents += rows.size
        self.bytes += ids.nbytes

    def close(self) -> ShardEntry:
        """Finish the files and see them on the disk."""
        self._finish_index()
        crc_hash, idx_hash = _hash(self._crc), _hash(self._index)
        sizes = []
        for file in (self._bin, self._index, self._crc):
            file.flush()
            os.fsync(file.fileno())
            sizes.append(os.fstat(file.fileno()).st_size)
            file.close()
        tokens = self.bytes // self._dtype.itemsize
        hashes = (self._bin_hash.hexdigest(), idx_hash, crc_hash)
        return ShardEntry(self._prefix.name, self.documents, tokens, sizes[0], sizes[1], *hashes)

    def _finish_index(self) -> None:
        """Write the offsets and the document indices after the lengths, and the header before them."""
        begin = 0
        for first in range(0, self.documents, _LENGTHS_AT_ONCE):
            count = min(_LENGTHS_AT_ONCE, self.documents - first)
            self._index.seek(HEADER_BYTES + LENGTH_BYTES * first)
            lengths = np.frombuffer(self._index.read(LENGTH_BYTES * count), "<i4").astype(np.int64)
            ends = begin + np.cumsum(lengths) * self._dtype.itemsize
            self._index.seek(HEADER_BYTES + LENGTH_BYTES * self.documents + OFFSET_BYTES * first)
            self._index.write((ends - lengths * self._dtype.itemsize).astype("<i8").tobytes())
            begin = int(ends[-1])
        for first in range(0, self.documents + 1, _LENGTHS_AT_ONCE):
            indices = np.arange(first, min(first + _LENGTHS_AT_ONCE, self.documents + 1), dtype="<i8")
            self._index.write(indices.tobytes())
        self._index.seek(0)
        self._index.write(pack_header(self._dtype.name, self.documents))


class _DatasetCounts:
    """Running counts of one language, and the extents of its documents."""

    def __init__(self) -> None:
        self.documents = self.tokens = self.bytes = self.words = 0
        self._extents: list[Extent] = []

    def add(self, rows: npt.NDArray[Any], shard: int, first_document: int) -> None:
        self.documents += rows.size
        self.tokens += int(rows["tokens"].sum())
        self.bytes += int(rows["bytes"].sum())
        self.words += int(rows["words"].sum())
        if self._extents and self._extents[-1].shard == shard:
            self._extents[-1] = self._extents[-1]._replace(documents=self._extents[-1].documents + rows.size)
        else:
            self._extents.append(Extent(shard, first_document, rows.size))

    def entry(self, source: str, language: str) -> DatasetEntry:
        return DatasetEntry(
            source, language, self.documents, self.tokens, self.bytes, self.words, extents=tuple(self._extents)
        )


def _hash(file: BufferedRandom) -> str:
    """Return the sha256 of a file open for reading and writing."""
    file.flush()
    file.seek(0)
    return hashlib.file_digest(file, "sha256").hexdigest()
