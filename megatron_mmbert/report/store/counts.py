"""Counts over all documents of a dataset, from the index alone: their lengths, and how many are equal to another.

Equal documents have equal lengths and checksums. Of more documents than ``MAX_COMPARED``, those are compared whose
checksum falls into one of several equal classes, which keeps copies together; the document with most copies is looked
for among all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.reader import Dataset, Store
from megatron_mmbert.utils.counter_rng import hash64

MAX_COMPARED = 1 << 24
"""Documents of a dataset that are compared with one another, 8 bytes each."""
_MAX_LENGTH = 1 << 20
"""Longer documents count as so long, in quantiles."""
_BUCKETS = 1 << 22
_LENGTH_MASK = (1 << 32) - 1
_CLASSES = 29  # key of the choice of documents
UInt64s = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Lengths:
    """Tokens of a dataset's documents.

    Attributes:
        histogram: documents of 2^k to 2^(k + 1) - 1 tokens, by k.
    """

    shortest: int
    median: int
    p90: int
    p99: int
    longest: int
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class Copies:
    """Documents that are there more than once.

    Attributes:
        compared: documents that were compared with one another.
        duplicates: those of them that are equal to an earlier one.
        max_copies: the times that one document is there, 1 where there is no second.
        document: the first of these.
    """

    compared: int
    duplicates: int
    max_copies: int
    document: int

    @property
    def share(self) -> float:
        """The share of documents that are equal to an earlier one."""
        return self.duplicates / self.compared if self.compared else 0.0


def count_lengths(store: Store, dataset: Dataset) -> Lengths:
    """Return the lengths of all documents of ``dataset``, quantiles exact up to 2^20 tokens.

    Raises:
        UserError: the index is damaged.
    """
    counts = np.zeros(1, dtype=np.int64)
    shortest, longest = np.iinfo(np.int64).max, 0
    for lengths, _ in store.lengths_and_checksums(dataset.source, dataset.language):
        shortest, longest = min(shortest, int(lengths.min())), max(longest, int(lengths.max()))
        found = np.bincount(np.minimum(lengths, _MAX_LENGTH), minlength=len(counts))
        found[: len(counts)] += counts
        counts = found
    powers = np.floor(np.log2(np.maximum(np.arange(len(counts)), 1))).astype(np.int64)
    histogram = np.bincount(powers, weights=counts).astype(np.int64)
    ends = np.cumsum(counts)
    median, p90, p99 = (int(np.searchsorted(ends, share * ends[-1])) for share in (0.5, 0.9, 0.99))
    return Lengths(shortest, median, p90, p99, longest, tuple(histogram.tolist()))


def count_copies(store: Store, dataset: Dataset, max_compared: int = MAX_COMPARED) -> Copies:
    """Return what is there more than once in ``dataset``.

    Raises:
        UserError: the index or a file of checksums is damaged.
    """
    classes = -(-dataset.documents // max_compared)
    kept = [_of_class(keys, classes) for keys in _keys(store, dataset)]
    keys = np.sort(np.concatenate(kept))
    starts = _starts(keys)
    duplicates = len(keys) - len(starts)
    if classes > 1:
        keys = _largest_bucket(store, dataset)
        starts = _starts(keys)
    runs = np.diff(np.append(starts, len(keys)))
    largest = int(runs.argmax())
    compared = sum(map(len, kept))
    if runs[largest] < 2:
        return Copies(compared, duplicates, 1, 0)
    first, second = _find(store, dataset, keys[starts[largest]])
    if not _is_equal(store, dataset, first, second, int(keys[starts[largest]]) & _LENGTH_MASK):
        return Copies(compared, duplicates, 1, 0)  # equal checksums of different ids: of four billion pairs one
    return Copies(compared, duplicates, int(runs[largest]), first)


def _keys(store: Store, dataset: Dataset) -> Iterator[UInt64s]:
    """Yield a number for each document that equal ones share: its checksum, then its length, uint64 [some]."""
    for lengths, checksums in store.lengths_and_checksums(dataset.source, dataset.language):
        yield checksums.astype(np.uint64) << np.uint64(32) | lengths.astype(np.uint64)


def _starts(keys: UInt64s) -> npt.NDArray[np.int64]:
    """Return where each number begins in sorted ``keys``."""
    return np.flatnonzero(np.diff(keys, prepend=~keys[:1]))


def _of_class(keys: UInt64s, classes: int) -> UInt64s:
    return keys if classes == 1 else keys[hash64(_CLASSES, keys) % np.uint64(classes) == 0]


def _largest_bucket(store: Store, dataset: Dataset) -> UInt64s:
    """Return the keys of the documents in the largest of many buckets, sorted: where many copies fall together."""
    sizes = np.zeros(_BUCKETS, dtype=np.int64)
    for keys in _keys(store, dataset):
        sizes += np.bincount(_buckets(keys), minlength=_BUCKETS)
    largest = sizes.argmax()
    return np.sort(np.concatenate([keys[_buckets(keys) == largest] for keys in _keys(store, dataset)]))


def _buckets(keys: UInt64s) -> npt.NDArray[np.int64]:
    return (hash64(_CLASSES, keys) >> np.uint64(42)).astype(np.int64)


def _find(store: Store, dataset: Dataset, key: np.uint64) -> tuple[int, int]:
    """Return the first two documents of ``key``."""
    found: list[int] = []
    before = 0
    for keys in _keys(store, dataset):
        found += (before + np.flatnonzero(keys == key)[:2]).tolist()
        if len(found) > 1:
            break
        before += len(keys)
    return found[0], found[1]


def _is_equal(store: Store, dataset: Dataset, one: int, other: int, length: int) -> bool:
    """Tell if two documents of ``length`` tokens have the same ids, as far as they are compared."""
    reader, stop = store.reader(dataset.source, dataset.language), min(length, _MAX_LENGTH)
    return bool(np.array_equal(reader(one, 0, stop), reader(other, 0, stop)))
