"""Reading a token store: a folder of Megatron ``.bin``/``.idx`` shards and a manifest.

One document of the store is one text document: exactly the ids the tokenizer gives, without ``<bos>`` and ``<eos>``,
which are added when samples are cut. A document is addressed by (source, language, number in that group); where it
lies is looked up in the group's extents. Opening reads the manifest and asks for file sizes; shards are mapped when
first touched, so the cost does not grow with the number of documents.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.index_format import BIN_ENDING, IDX_ENDING, indexed_dataset
from megatron_mmbert.data.store.manifest import REMEDY, GroupEntry, Manifest, ShardEntry, load_manifest
from megatron_mmbert.utils.errors import UserError, nearest

# Megatron's .idx begins with: magic, version, code of the ids' type, number of sequences, number of documents.
_INDEX_HEADER = struct.Struct("<9sQBQQ")
_INDEX_DTYPES = {"int32": 4, "uint16": 8}


class Group(NamedTuple):
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
        UserError: Megatron's reader refuses the index.
    """

    def __init__(self, prefix: Path, dtype: str) -> None:
        _check_index_header(Path(f"{prefix}{IDX_ENDING}"), dtype)
        # Megatron closes its maps when the dataset object dies, even under a view in use: it lives as long as we do.
        try:
            self._dataset: Any = indexed_dataset().IndexedDataset(str(prefix))
        except AssertionError:
            raise UserError(f"{prefix}{IDX_ENDING}: damaged index; {REMEDY}") from None
        self.lengths: npt.NDArray[np.int32] = self._dataset.index.sequence_lengths
        self.pointers: npt.NDArray[np.int64] = self._dataset.index.sequence_pointers
        self.document_ends: npt.NDArray[np.int64] = self._dataset.document_indices
        # A plain view: slices of np.memmap objects are slow to make.
        try:
            self.ids: npt.NDArray[Any] = np.memmap(f"{prefix}{BIN_ENDING}", dtype=dtype, mode="r").view(np.ndarray)
        except ValueError as error:
            raise UserError(f"{prefix}{BIN_ENDING}: no whole number of {dtype} ids in it ({error}); {REMEDY}") from None

    def document(self, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Ids ``start`` to ``stop`` of one document, a view [stop - start]."""
        if not 0 <= start <= stop <= self.lengths[document]:
            raise IndexError(f"tokens {start}:{stop} of a document of {self.lengths[document]} tokens")
        first = int(self.pointers[document]) // self.ids.itemsize
        return self.ids[first + start : first + stop]


class _Located:
    """A group with the running document count of its extents, for the search."""

    def __init__(self, entry: GroupEntry) -> None:
        self.entry = entry
        self.ends = list(accumulate(extent.documents for extent in entry.extents))

    def find(self, document: int) -> tuple[int, int]:
        """(shard, document in the shard) of the group's document number ``document``."""
        if not 0 <= document < self.entry.documents:
            raise IndexError(f"document {document} of {self.entry.documents} in {self.entry.language!r}")
        number = bisect_right(self.ends, document)
        extent = self.entry.extents[number]
        return extent.shard, extent.first_document + document - (self.ends[number] - extent.documents)


class Store:
    """A token store, open for reading. Cheap to open, to pickle and to fork."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self._groups = {(entry.source, entry.language): _Located(entry) for entry in manifest.groups}
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
    def groups(self) -> list[Group]:
        """All (source, language) of the store, in the store's order: by source, then language."""
        return [Group(g.source, g.language, g.documents, g.tokens, g.bytes) for g in self.manifest.groups]

    @property
    def sources(self) -> list[str]:
        return sorted({source for source, _ in self._groups})

    def languages(self, source: str) -> list[str]:
        """Languages of ``source``, sorted.

        Raises:
            UserError: the store has no such source.
        """
        self._check_source(source)
        return sorted(language for of, language in self._groups if of == source)

    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]:
        """Tokens of every document of a group, int64 [documents], a copy.

        Raises:
            UserError: the store has no such group.
        """
        extents = self._group(source, language).entry.extents
        parts = [self._shard(e.shard).lengths[e.first_document : e.first_document + e.documents] for e in extents]
        return np.concatenate(parts).astype(np.int64)

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Ids ``start`` to ``stop`` of a document: a read-only view of the file, uint16 or int32 [stop - start].

        Raises:
            UserError: the store has no such group.
            IndexError: no such document, or not ``0 <= start <= stop <= length``.
        """
        shard, at = self._group(source, language).find(document)
        return self._shard(shard).document(at, start, stop)

    def _shard(self, number: int) -> Shard:
        if number not in self._shards:
            self._shards[number] = Shard(self.path / self.manifest.shards[number].name, self.manifest.dtype)
        return self._shards[number]

    def _group(self, source: str, language: str) -> _Located:
        found = self._groups.get((source, language))
        if found is None:
            hint = nearest(language, self.languages(source))
            raise UserError(f"{self.path}: source {source!r} has no language {language!r}{hint}; see its manifest.json")
        return found

    def _check_source(self, source: str) -> None:
        if source not in self.sources:
            has = ", ".join(self.sources)
            raise UserError(f"{self.path}: no source {source!r}{nearest(source, self.sources)}; the store has {has}")


def size_problems(path: Path, shards: tuple[ShardEntry, ...]) -> Iterator[str]:
    """One sentence for every shard file that is missing or has not the size the manifest gives."""
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


def _check_index_header(path: Path, dtype: str) -> None:
    """Refuse an index whose header does not fit its size or ``dtype``; Megatron's reader fails on it with a traceback.

    Raises:
        UserError: the header is damaged.
    """
    with path.open("rb") as file:
        header = file.read(_INDEX_HEADER.size)
    if len(header) == _INDEX_HEADER.size:
        magic, version, code, sequences, documents = _INDEX_HEADER.unpack(header)
        size = _INDEX_HEADER.size + sequences * (4 + 8) + documents * 8
        sound = magic == b"MMIDIDX\0\0" and version == 1 and code == _INDEX_DTYPES[dtype] and documents >= 1
        if sound and size == path.stat().st_size:
            return
    raise UserError(f"{path}: damaged index header; copy it again or {REMEDY}")
