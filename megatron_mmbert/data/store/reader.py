"""Reading a token store: a folder of Megatron ``.bin``/``.idx`` shards and a manifest.

One document of the store is one text document: exactly the ids the tokenizer gives, without ``<bos>`` and ``<eos>``,
which are added when samples are drawn. A document is addressed by (source, language, index in that dataset); its shard
is looked up in the dataset's extents. Opening reads and checks the manifest and the sizes of all files; the index of a
shard is checked when the shard is first used, which is at the start of a phase for all that it reads, and each document
when it is first read (``shard.py``).
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.index_format import BIN_ENDING, IDX_ENDING
from megatron_mmbert.data.store.manifest import (
    REMEDY,
    DatasetEntry,
    Manifest,
    ShardEntry,
    extent_problems,
    load_manifest,
)
from megatron_mmbert.data.store.shard import Shard
from megatron_mmbert.data.store.writer import CRC_BYTES, CRC_ENDING
from megatron_mmbert.utils.errors import UserError, nearest

CHECKED_DOCUMENTS = 1_000_000
_DOCUMENTS_AT_ONCE = 1 << 20
MIN_CHECK_SHARE = 0.1
"""A check costs about a fifth of fetching a document (estimated), so of larger stores a tenth is checked."""


class Dataset(NamedTuple):
    """One (source, language) of a store; ``bytes`` counts its UTF-8 text."""

    source: str
    language: str
    documents: int
    tokens: int
    bytes: int


class DatasetReader:
    """Reads the documents of one dataset: looks up a document's shard in the extents."""

    def __init__(self, entry: DatasetEntry, shards: dict[int, Shard], open_shard: Callable[[int], Shard]) -> None:
        self.entry = entry
        self._shards, self._open_shard = shards, open_shard
        self._ends = list(accumulate(extent.documents for extent in entry.extents))

    def __call__(self, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return ids ``start`` to ``stop`` of a document, as :meth:`Store.tokens`."""
        shard, index = self.find(document)
        return (self._shards.get(shard) or self._open_shard(shard)).document(index, start, stop)

    def tokens_of(self, document: int) -> int:
        """Return the number of tokens of a document."""
        shard, index = self.find(document)
        return int((self._shards.get(shard) or self._open_shard(shard)).lengths(index, 1)[0])

    def find(self, document: int) -> tuple[int, int]:
        """Return (shard, document in the shard) of the dataset's ``document``."""
        if not 0 <= document < self.entry.documents:
            raise IndexError(f"document {document} of {self.entry.documents} in {self.entry.language!r}")
        index = bisect_right(self._ends, document)
        shard, first_document, documents = self.entry.extents[index]
        return shard, first_document + document - (self._ends[index] - documents)


class Store:
    """A token store, open for reading. Cheap to open, to pickle and to fork."""

    def __init__(self, path: Path, manifest: Manifest, check_share: float | None = None) -> None:
        self.path = path
        self.manifest = manifest
        self._check_share = check_share
        self._shards: dict[int, Shard] = {}
        self._datasets = {
            (entry.source, entry.language): DatasetReader(entry, self._shards, self._shard)
            for entry in manifest.datasets
        }

    @classmethod
    def open(cls, path: Path | str, check_share: float | None = None) -> Store:
        """Open the store at ``path``.

        Args:
            check_share: the share of its documents that are compared with their checksums when they are first read;
                None: all of up to ``CHECKED_DOCUMENTS``, of a larger store so many or a tenth.

        Raises:
            UserError: no store there, a damaged manifest, or a file that is missing or has the wrong size.
        """
        path = Path(path)
        manifest = load_manifest(path)
        for problem in itertools.chain(extent_problems(path, manifest), size_problems(path, manifest.shards)):
            raise UserError(problem)
        return cls(path, manifest, check_share)

    def check_small_files(self) -> None:
        """Check the index and the checksums of every shard, which otherwise happens when a shard is first used.

        Raises:
            UserError: one is damaged.
        """
        for index in range(len(self.manifest.shards)):
            self._shard(index)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process gets the path and the manifest, and opens the files for itself.
        return Store, (self.path, self.manifest, self._check_share)

    @property
    def vocab_size(self) -> int:
        return self.manifest.tokenizer.vocab_size

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.manifest.tokenizer.fingerprint

    @property
    def datasets(self) -> list[Dataset]:
        """All (source, language) of the store, in the store's order: by source, then language."""
        return [Dataset(d.source, d.language, d.documents, d.tokens, d.bytes) for d in self.manifest.datasets]

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self._datasets})

    def languages(self, source: str) -> list[str]:
        """Return the languages of ``source``, sorted.

        Raises:
            UserError: the store has no such source.
        """
        self._check_source(source)
        return sorted(language for other, language in self._datasets if other == source)

    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]:
        """Return the tokens of every document of a dataset, int64 [documents], a copy.

        Raises:
            UserError: the store has no such dataset, or its index is damaged or not of these documents.
        """
        entry = self.reader(source, language).entry
        parts = [self._shard(e.shard).lengths(e.first_document, e.documents) for e in entry.extents]
        lengths = np.concatenate(parts).astype(np.int64)
        if (tokens := int(lengths.sum())) != entry.tokens:
            raise UserError(
                f"{self.path}: {entry.name} has {tokens} tokens and its manifest says {entry.tokens}; copy it again or "
                f"{REMEDY}"
            )
        return lengths

    def lengths_and_checksums(
        self, source: str, language: str
    ) -> Iterator[tuple[npt.NDArray[np.int32], npt.NDArray[np.uint32]]]:
        """Yield the tokens of some documents of a dataset and the CRC-32 of their ids, until all were given.

        Equal documents agree in both. No more than a few megabytes are in memory.

        Raises:
            UserError: as :meth:`document_lengths`.
        """
        for shard_number, first, documents in self.reader(source, language).entry.extents:
            shard = self._shard(shard_number)
            for start in range(first, first + documents, _DOCUMENTS_AT_ONCE):
                count = min(_DOCUMENTS_AT_ONCE, first + documents - start)
                yield shard.lengths(start, count), shard.checksums(start, count)

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return ids ``start`` to ``stop`` of a document, read-only, uint16 or int32 [stop - start].

        Raises:
            UserError: the store has no such dataset, or the document is damaged.
            IndexError: no such document, or not ``0 <= start <= stop <= length``.
        """
        return self.reader(source, language)(document, start, stop)

    def where(self, source: str, language: str, document: int) -> str:
        """Return the file and the name of a document, for messages."""
        shard, index = self.reader(source, language).find(document)
        opened = self._shard(shard)
        return f"{opened.prefix}{BIN_ENDING}: {opened.name_of(index)}"

    def _shard(self, index: int) -> Shard:
        shard = self._shards.get(index)
        if shard is None:
            share = self._check_share
            if share is None:
                share = max(CHECKED_DOCUMENTS / self.manifest.totals()["documents"], MIN_CHECK_SHARE)
            shard = self._shards[index] = Shard(self.path, self.manifest, index, share)
        return shard

    def reader(self, source: str, language: str) -> DatasetReader:
        """Return what reads the documents of a dataset, called as :meth:`tokens` without the dataset's name.

        Raises:
            UserError: the store has no such dataset.
        """
        dataset = self._datasets.get((source, language))
        if dataset is None:
            hint = nearest(language, self.languages(source))
            raise UserError(f"{self.path}: source {source!r} has no language {language!r}{hint}; see its manifest.json")
        return dataset

    def _check_source(self, source: str) -> None:
        if source not in self.sources:
            has = ", ".join(self.sources)
            raise UserError(f"{self.path}: no source {source!r}{nearest(source, self.sources)}; the store has {has}")


def size_problems(path: Path, shards: tuple[ShardEntry, ...]) -> Iterator[str]:
    """Yield one sentence for every shard file that is missing or has not the size the manifest gives."""
    for shard in shards:
        for ending, expected in (
            (BIN_ENDING, shard.bin_bytes),
            (IDX_ENDING, shard.idx_bytes),
            (CRC_ENDING, shard.documents * CRC_BYTES),
        ):
            file = path / (shard.name + ending)
            try:
                size = file.stat().st_size
            except FileNotFoundError:
                yield f"{file}: missing; copy it again or {REMEDY}"
                continue
            if size != expected:
                yield f"{file}: {size} bytes where {expected} are expected; copy it again or {REMEDY}"
