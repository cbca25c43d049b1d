"""Cutting documents into examples: balanced spans, found by index from three bits of memory each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.utils.counter_rng import U64

_CHUNK = 1 << 19  # documents looked at together, to bound the temporary memory
_WORD_BITS = 64

Int64s = npt.NDArray[np.int64]


class ExampleTable:
    """The examples of consecutive documents for a phase of ``max_length``.

    A document of n ids becomes ceil(n / (max_length - 2)) consecutive examples whose lengths differ by at most one:
    nothing dropped, nothing repeated, and no short tail (cutting at max_length would leave a last example of any length
    down to one id). A document without ids gives no example.

    One bit per example says whether it is the first of its document; an example's document is then the number of ones
    up to it, counted from a running total per word of 64 bits, and its index in the document the distance to the last
    one. No search: a few operations per example. Memory: 3 bits per example and the lengths as int32, about 4.5 bytes
    per document; a table of running counts would take 12.

    Attributes:
        examples: how many there are.
    """

    def __init__(self, lengths: npt.NDArray[Any], max_length: int) -> None:
        """Build the table.

        Args:
            lengths: integers [documents], ids per document.
            max_length: tokens of a sample, ``<bos>`` and ``<eos>`` included.
        """
        self._max_ids = max_sample_ids(max_length)
        lengths = narrow_lengths(lengths)
        self._nonempty = None if lengths.all() else np.flatnonzero(lengths)  # indices of the documents with ids
        self._lengths = lengths if self._nonempty is None else lengths[self._nonempty]
        self.examples = count_examples(self._lengths, max_length)
        is_first = self._first_examples()
        ones = np.bitwise_count(is_first).astype(np.int64)
        word = np.arange(len(ones))
        last = np.maximum.accumulate(np.where(ones > 0, word * _WORD_BITS + _highest_bit(is_first), 0))
        # [words, 3]: the bits, documents begun before the word, first example of the last of those: one row, one fetch.
        self._words = np.stack([is_first.view(np.int64), np.cumsum(ones) - ones, np.roll(last, 1)], axis=1)

    def _first_examples(self) -> U64:
        """Return uint64 [words]: bit e says whether example e is the first of its document."""
        bits = np.zeros(-(-self.examples // _WORD_BITS), dtype="<u8")
        in_bytes = bits.view(np.uint8)
        example = 0
        for _, counts in _chunks_of_counts(self._lengths, self._max_ids):
            ends = example + np.cumsum(counts, dtype=np.int64)
            begin = example - example % 8
            flags = np.zeros(int(ends[-1]) - begin, dtype=np.bool_)
            flags[ends - counts - begin] = True
            packed = np.packbits(flags, bitorder="little")
            in_bytes[begin // 8 : begin // 8 + len(packed)] |= packed
            example = int(ends[-1])
        return bits

    def locate(self, example: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Return (document, first id, id after the last) of each example.

        Args:
            example: int64 [N], indices in [0, examples).

        Returns:
            document int64 [N], start and stop integers [N].

        Raises:
            IndexError: an index outside [0, examples).
        """
        if len(example) and not (0 <= int(example.min()) and int(example.max()) < self.examples):
            raise IndexError(f"indices of examples must lie in [0, {self.examples})")
        bits, documents_before, began = np.take(self._words, example >> 6, axis=0).T
        seen = bits.view(np.uint64) & (~np.uint64(0) >> (~example & 63).astype(np.uint64))
        document = documents_before + np.bitwise_count(seen) - 1
        stop = self._lengths.take(document)
        start = np.zeros_like(stop)
        cut = np.flatnonzero(stop > self._max_ids)  # most documents are one example: the arithmetic is for the others
        seen, example, length = seen[cut], example[cut], stop[cut]
        first = np.where(seen != 0, (example & ~63) + _highest_bit(seen), began[cut])
        count = _counts(length, self._max_ids)
        shorter = length // count
        longer = length - shorter * count  # so many examples, the first ones, have one id more
        index = (example - first).astype(length.dtype)
        start[cut] = index * shorter + np.minimum(index, longer)
        stop[cut] = start[cut] + shorter + (index < longer)
        return document if self._nonempty is None else self._nonempty[document], start, stop


def _highest_bit(words: U64) -> Int64s:
    """Return the index of the highest bit set, int64 [N]; anything for 0.

    Clearing every bit below another leaves the highest where it is and rules out rounding up to the next power of two,
    so the exponent of the word as float64 is exact."""
    return ((words & ~(words >> np.uint64(1))).astype(np.float64).view(np.int64) >> 52) - 1023


def max_sample_ids(max_length: int) -> int:
    """Return the ids that a sample of ``max_length`` tokens holds beside its special tokens."""
    if max_length <= SPECIAL_TOKENS_PER_SAMPLE:
        raise ValueError(f"max_length {max_length} leaves no room beside <bos> and <eos>")
    return max_length - SPECIAL_TOKENS_PER_SAMPLE


def narrow_lengths(lengths: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return lengths as int32, or as int64 where a document of 2^31 ids needs it."""
    return lengths.astype(np.int32 if int(lengths.max(initial=0)) < 2**31 else np.int64, copy=False)


def count_examples(lengths: npt.NDArray[Any], max_length: int) -> int:
    """Return how many examples documents of ``lengths`` (integers [documents]) give."""
    return sum(int(counts.sum(dtype=np.int64)) for _, counts in _chunks_of_counts(lengths, max_sample_ids(max_length)))


def _counts(lengths: npt.NDArray[Any], max_ids: int) -> npt.NDArray[Any]:
    """Return the examples of each document, in the shape and type of ``lengths``."""
    return -(-lengths // max_ids)


def _chunks_of_counts(lengths: npt.NDArray[Any], max_ids: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (first document, examples of each document), some documents at a time."""
    for first in range(0, len(lengths), _CHUNK):
        yield first, _counts(lengths[first : first + _CHUNK], max_ids)
