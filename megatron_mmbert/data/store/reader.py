"""Reading a token store: a folder of Megatron ``.bin``/``.idx`` shards and a manifest.

One document of the store is one text document: exactly the ids the tokenizer gives, without ``<bos>`` and ``<eos>``,
which are added when samples are drawn. A document is addressed by (source, language, index in that dataset); its shard
is looked up in the dataset's extents. Opening reads the manifest and asks for file sizes; shards are mapped when first
touched, so the cost does not grow with the number of documents.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.index_format import BIN_ENDING, IDX_ENDING, has_valid_header, indexed_dataset
from megatron_mmbert.data.store.manifest import REMEDY, DatasetEntry, Manifest, ShardEntry, load_manifest
from megatron_mmbert.utils.errors import UserError, nearest


class Dataset(NamedTuple):
    """One (source, language) of a store; ``bytes`` counts its UTF-8 text."""

    source: str
    language: str
    documents: int
    tokens: int
    bytes: int


class Shard:
    """One mapped shard.

    Attributes:
        lengths: int32 [documents], tokens of each document.
        pointers: int64 [documents], byte offset of each document in the ``.bin``.
        document_ends: int64 [documents + 1], Megatron's documents in sequences; here each is one sequence.
        ids: uint16 or int32 [tokens], all ids of the shard.

    Raises:
        UserError: the index's header does not fit, or Megatron's reader does not accept the index.
    """

    def __init__(self, prefix: Path, dtype: str) -> None:
        index = Path(f"{prefix}{IDX_ENDING}")
        if not has_valid_header(index, dtype):
            raise UserError(f"{index}: damaged index header; copy it again or {REMEDY}")
        # Megatron closes its maps when the dataset object dies, even under a view in use: it lives as long as we do.
        try:
            self._dataset: Any = indexed_dataset().IndexedDataset(str(prefix))
        except AssertionError:
            raise UserError(f"{index}: damaged index; {REMEDY}") from None
        self.lengths: npt.NDArray[np.int32] = self._dataset.index.sequence_lengths
        self.pointers: npt.NDArray[np.int64] = self._dataset.index.sequence_pointers
        self.document_ends: npt.NDArray[np.int64] = self._dataset.document_indices
        # A plain view: slices of np.memmap objects are slow to make.
        try:
            self.ids: npt.NDArray[Any] = np.memmap(f"{prefix}{BIN_ENDING}", dtype=dtype, mode="r").view(np.ndarray)
        except ValueError as error:
            raise UserError(f"{prefix}{BIN_ENDING}: no whole number of {dtype} ids in it ({error}); {REMEDY}") from None

    def document(self, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return ids ``start`` to ``stop`` of one document, a view [stop - start]."""
        if not 0 <= start <= stop <= self.lengths[document]:
            raise IndexError(f"tokens {start}:{stop} of a document of {self.lengths[document]} tokens")
        first = int(self.pointers[document]) // self.ids.itemsize
        return self.ids[first + start : first + stop]


class _ExtentIndex:
    """A dataset with the running document count of its extents, for the search."""

    def __init__(self, entry: DatasetEntry) -> None:
        self.entry = entry
        self.ends = list(accumulate(extent.documents for extent in entry.extents))

    def find(self, document: int) -> tuple[int, int]:
        """Return (shard, document in the shard) of the dataset's ``document``."""
        if not 0 <= document < self.entry.documents:
            raise IndexError(f"document {document} of {self.entry.documents} in {self.entry.language!r}")
        index = bisect_right(self.ends, document)
        extent = self.entry.extents[index]
        return extent.shard, extent.first_document + document - (self.ends[index] - extent.documents)


class Store:
    """A token store, open for reading. Cheap to open, to pickle and to fork."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._datasets = {(entry.source, entry.language): _ExtentIndex(entry) for entry in manifest.datasets}
        self._shards: dict[int, Shard] = {}

    @classmethod
    def open(cls, path: Path | str) -> Store:
        """Open the store at ``path``.

        Raises:
            UserError: no store there, a damaged manifest, or a file that is missing or has the wrong size.
        """
        path = Path(path)
        manifest = load_manifest(path)
        for problem in size_problems(path, manifest.shards):
            raise UserError(problem)
        return cls(path, manifest)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process gets the path and the manifest, and maps for itself.
        return Store, (self.path, self.manifest)

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
            UserError: the store has no such dataset.
        """
        extents = self._dataset(source, language).entry.extents
        lengths = [self._shard(e.shard).lengths[e.first_document : e.first_document + e.documents] for e in extents]
        return np.concatenate(lengths).astype(np.int64)

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return ids ``start`` to ``stop`` of a document: a read-only view of the file, uint16 or int32 [stop - start].

        Raises:
            UserError: the store has no such dataset.
            IndexError: no such document, or not ``0 <= start <= stop <= length``.
        """
        shard, index = self._dataset(source, language).find(document)
        return self._shard(shard).document(index, start, stop)

    def _shard(self, index: int) -> Shard:
        if index not in self._shards:
            self._shards[index] = Shard(self.path / self.manifest.shards[index].name, self.manifest.dtype)
        return self._shards[index]

    def _dataset(self, source: str, language: str) -> _ExtentIndex:
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
        for ending, expected in ((BIN_ENDING, shard.bin_bytes), (IDX_ENDING, shard.idx_bytes)):
            file = path / (shard.name + ending)
            try:
                size = file.stat().st_size
            except FileNotFoundError:
                yield f"{file}: missing; copy it again or {REMEDY}"
                continue
            if size != expected:
                yield f"{file}: {size} bytes where {expected} are expected; copy it again or {REMEDY}"
