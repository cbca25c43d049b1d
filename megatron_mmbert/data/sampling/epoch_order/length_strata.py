"""Length-stratified order: any run of samples of a stripe has lengths like the whole stripe.

Sampling weights are met in tokens by counting samples times their mean length. Drawn at random, a thousand samples of
web text are off by some 2 % of that. So the examples of a stripe are sorted by length and cut into up to 32 strata of
equal size, and samples take turns through the strata, in an order that spreads any part of a turn evenly too (bit
reversal); which example of its stratum comes is random. Each example still comes once.

Sorting all documents of a stripe would need four bytes a document to find them again. They are laid in rows of up to
256 (document index modulo the number of rows, a power of two), each row sorted alone, then read rank by rank: one byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.epoch_order.feistel import permute
from megatron_mmbert.data.sampling.examples import ExampleTable, Int64s, max_sample_ids
from megatron_mmbert.utils.counter_rng import U64

_ROW = 256
_SORTED_FROM = 8  # documents; fewer stay as they are
_MAX_BITS = 5  # of a stratum's index
_REVERSED = np.array([int(f"{n:05b}"[::-1], 2) for n in range(1 << _MAX_BITS)])
# For each number of examples that make no whole turn, their order: as spread as a turn's.
_LEFT = np.array([[*sorted(range(left), key=_REVERSED.__getitem__), *[0] * (32 - left)] for left in range(33)])
_LOW_BITS = np.uint64((1 << 5) - 1)
_MIN_STRATUM_EXAMPLES = 11  # smaller stripes have fewer strata


class LengthSorted:
    """The examples of consecutive stripes, each stripe sorted by length.

    Attributes:
        examples: how many there are, of all stripes together.
    """

    def __init__(self, lengths: npt.NDArray[Any], first_document: Int64s, max_length: int) -> None:
        """Sort the stripes.

        Args:
            lengths: integers [documents], ids per document, stripe after stripe; sorted in place.
            first_document: int64 [stripes], where each stripe begins in ``lengths``.
            max_length: tokens of a sample, ``<bos>`` and ``<eos>`` included.
        """
        self._first = first_document
        documents = np.diff(first_document, append=len(lengths))
        self._rows = np.array([_rows(count) for count in documents.tolist()], dtype=np.int64)
        self._index_in_row = np.zeros(len(lengths), dtype=np.uint8)
        max_ids = max_sample_ids(max_length)
        ends = (first_document + documents).tolist()
        for first, end in zip(first_document.tolist(), ends, strict=True):
            if end - first < _SORTED_FROM:
                self._index_in_row[first:end] = np.arange(end - first)
            else:
                self._index_in_row[first:end] = _sort_by_length(lengths[first:end], max_ids)
        self._table = ExampleTable(lengths, max_length)
        self.examples = self._table.examples

    def locate(
        self, example: Int64s, stripe: Int64s, counts: Int64s
    ) -> tuple[Int64s, npt.NDArray[Any], npt.NDArray[Any]]:
        """Return (document of its stripe, first id, id after the last) of each example, each [N].

        Args:
            example: int64 [N], indices among the examples of all stripes.
            stripe, counts: int64 [R]; the first ``counts[0]`` examples are of ``stripe[0]``, and so on.
        """
        document, start, stop = self._table.locate(example)
        in_row = self._index_in_row.take(document)
        document -= np.repeat(self._first[stripe], counts)
        rows = np.repeat(self._rows[stripe], counts)
        document &= rows - 1  # document q of the sorted stripe is of row q modulo the rows
        document += rows * in_row
        return document, start, stop


def _rows(documents: int) -> int:
    return 1 << max(0, (documents - 1) // _ROW).bit_length()


def _sort_by_length(lengths: npt.NDArray[Any], max_ids: int) -> npt.NDArray[np.uint8]:
    """Sort a stripe's ``lengths`` in place; return each document's index in its row, uint8 [documents]."""
    documents = len(lengths)
    rows = _rows(documents)
    longest = -(-documents // rows)
    examples = -(-lengths // max_ids)
    key = np.full(rows * longest, 2**16 - 1, dtype=np.uint16)
    key[:documents] = (lengths // np.maximum(examples, 1)) * 255 // max_ids
    key[:documents] <<= np.uint16(8)
    table = key.reshape(longest, rows)
    table |= np.arange(longest, dtype=np.uint16)[:, None]
    key[documents:] = 2**16 - 1  # what the last rank lacks sorts last
    by_rank = np.sort(table.T, axis=1).T.reshape(-1)[:documents]
    index_in_row = (by_rank & np.uint16(0xFF)).astype(np.uint8)
    lengths[:] = lengths[index_in_row.astype(np.int64) * rows + np.arange(documents) % rows]
    return index_in_row


def stratified_permutation(index: Int64s, size: Int64s, key: U64, counts: Int64s) -> Int64s:
    """Return the example of its stripe, sorted by length, that comes at each index: a bijection of [0, size) per key.

    Args:
        index: int64 [N], indices in the order of the stripe.
        size, key: int64 and uint64 [R], examples of the stripe, and the key of its order.
        counts: int64 [R], how many of ``index`` each size and key is for.
    """
    bits = (size[:, None] >= _MIN_STRATUM_EXAMPLES << np.arange(1, _MAX_BITS + 1)).sum(axis=1)
    stratum_size = size >> bits
    whole_turns = stratum_size << bits
    mask = (1 << bits) - 1
    each_bits, each_mask = np.repeat(bits, counts), np.repeat(mask, counts)
    stratum = _REVERSED.take(index & each_mask) >> (_MAX_BITS - each_bits)
    stratum ^= np.repeat((key & _LOW_BITS).astype(np.int64) & mask, counts)  # where turns begin
    within = index >> each_bits
    each_size = np.repeat(stratum_size, counts)
    last = np.flatnonzero(within >= each_size)
    within[last] = 0
    example = permute(within, stratum_size, key, counts, variant=stratum)
    example += stratum * each_size
    # Examples that make no whole turn lie evenly among the others, and come last. Quotients are exact in float64.
    each_left, each_whole = np.repeat(size - whole_turns, counts), np.repeat(whole_turns, counts)
    example += (example * each_left / each_whole).astype(np.int64)
    left, whole = each_left[last], each_whole[last]
    turn = _LEFT[left, index[last] - whole]
    example[last] = -(-(turn + 1) * whole // left) + turn
    return example
