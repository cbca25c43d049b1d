"""Writing a token store: shards cut at a size, checksums, and the entries of the manifest.

Shards are written by Megatron's own ``IndexedDatasetBuilder``. Beside each lies ``NAME.crc32``, one little-endian
uint32 per document, because a checksum of the whole shard can only say that two gigabytes are bad, not which document.
"""

from __future__ import annotations

import builtins
import hashlib
import os
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.indexed import BIN_ENDING, IDX_ENDING, indexed_dataset
from megatron_mmbert.data.manifest import Extent, GroupEntry, ShardEntry

CRC_ENDING = ".crc32"
SHARD_BYTES = 2 << 30
# Megatron's DType.optimal_dtype, without the seconds its import takes.
_UINT16_VOCAB = 65500


class EncodedDocument(NamedTuple):
    """The ids of one document, [tokens] in the store's dtype, and the bytes and words of its text.

    ``digest``: 16 bytes that identify the text, zeros unless duplicates are looked for.
    """

    language: str
    ids: npt.NDArray[Any]
    bytes: int
    words: int
    digest: builtins.bytes = builtins.bytes(16)


def store_dtype(vocab_size: int) -> str:
    """NumPy name of the smallest type Megatron uses for ``vocab_size`` ids."""
    return "uint16" if vocab_size < _UINT16_VOCAB else "int32"


class StoreWriter:
    """Writes the documents of one source into ``folder``; all documents of a language must come one after another.

    A shard is cut before the document that would take its ``.bin`` over ``shard_bytes``; a document is never cut.
    """

    def __init__(self, folder: Path, source: str, dtype: str, shard_bytes: int = SHARD_BYTES) -> None:
        self._folder = folder
        self._source = source
        self._dtype = np.dtype(dtype)
        self._shard_bytes = shard_bytes
        self._groups: dict[str, _GroupCount] = {}
        self._language: str | None = None
        self._builder: Any = None
        self._bytes = 0
        self._checksums: list[int] = []
        self.shards: list[ShardEntry] = []

    def add(self, document: EncodedDocument) -> None:
        """Append one document.

        Raises:
            ValueError: the documents of a language do not come one after another, or the dtype is wrong.
        """
        if document.ids.dtype != self._dtype:
            raise ValueError(f"ids are {document.ids.dtype}, the store is {self._dtype}")
        if document.language != self._language and document.language in self._groups:
            raise ValueError(f"documents of {document.language} are scattered")
        if self._builder is not None and self._bytes + document.ids.nbytes > self._shard_bytes:
            self._close_shard()
        if self._builder is None:
            self._open_shard()
        self._language = document.language
        group = self._groups.setdefault(document.language, _GroupCount())
        group.add(document, len(self.shards), len(self._checksums))
        self._builder.add_document(document.ids, [document.ids.size])
        self._checksums.append(zlib.crc32(document.ids.data))
        self._bytes += document.ids.nbytes

    def add_all(self, documents: list[EncodedDocument]) -> None:
        """Append documents, as :meth:`add`."""
        for document in documents:
            self.add(document)

    def finish(self) -> tuple[GroupEntry, ...]:
        """Close the last shard; the entries of all groups, in the order written."""
        if self._builder is not None:
            self._close_shard()
        return tuple(group.entry(self._source, language) for language, group in self._groups.items())

    @property
    def _prefix(self) -> Path:
        return self._folder / f"shard-{len(self.shards):05d}"

    def _open_shard(self) -> None:
        self._builder = indexed_dataset().IndexedDatasetBuilder(
            f"{self._prefix}{BIN_ENDING}", dtype=self._dtype.type, multimodal=False
        )
        self._bytes, self._checksums = 0, []

    def _close_shard(self) -> None:
        prefix = self._prefix
        files = [Path(f"{prefix}{ending}") for ending in (BIN_ENDING, IDX_ENDING, CRC_ENDING)]
        self._builder.finalize(str(files[1]))
        np.array(self._checksums, dtype="<u4").tofile(files[2])
        sizes, hashes = zip(*(_settle(file) for file in files), strict=True)
        tokens = self._bytes // self._dtype.itemsize
        self.shards.append(ShardEntry(prefix.name, len(self._checksums), tokens, sizes[0], sizes[1], *hashes))
        self._builder = None


class _GroupCount:
    """Running counts of one language, and where its documents lie."""

    def __init__(self) -> None:
        self.documents = self.tokens = self.bytes = self.words = 0
        self._places: list[Extent] = []

    def add(self, document: EncodedDocument, shard: int, at: int) -> None:
        self.documents += 1
        self.tokens += document.ids.size
        self.bytes += document.bytes
        self.words += document.words
        if self._places and self._places[-1].shard == shard:
            self._places[-1] = self._places[-1]._replace(documents=self._places[-1].documents + 1)
        else:
            self._places.append(Extent(shard, at, 1))

    def entry(self, source: str, language: str) -> GroupEntry:
        return GroupEntry(
            source, language, self.documents, self.tokens, self.bytes, self.words, extents=tuple(self._places)
        )


def _settle(path: Path) -> tuple[int, str]:
    """Force a written file to the disk; its size and the sha256 of what is there."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
