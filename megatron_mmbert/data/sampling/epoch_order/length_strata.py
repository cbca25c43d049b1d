"""Any run of samples of a class has lengths like the whole class, so that tokens follow samples closely.

Shares are met in tokens by counting samples times their mean length. Drawn at random, a thousand samples of web text
are off by some 2 % of that. So the documents of a class are laid by the length of their pieces, the row of pieces is
cut into up to 32 strata of equal size, and samples take turns through the strata, in an order that spreads any part of
a turn evenly too (bit reversal); which piece of its stratum comes is random. Each piece still comes once.

Laying all documents of a class by length would need four bytes a document to find them again. They are laid in rows of
up to 256 (document number modulo the number of rows, a power of two), each row sorted alone, then rank by rank: one
byte.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.epoch_order.feistel import permute
from megatron_mmbert.data.sampling.examples import ExampleTable, Int64s, room_for_ids
from megatron_mmbert.utils.counter_rng import U64

_ROW = 256
_SORTED_FROM = 8  # documents; fewer stay as they are
_MOST_BITS = 5  # of the number of a stratum
_REVERSED = np.array([int(f"{n:05b}"[::-1], 2) for n in range(1 << _MOST_BITS)])
# For each number of pieces that make no whole turn, their order: as spread as a turn's.
_LEFT = np.array([[*sorted(range(left), key=_REVERSED.__getitem__), *[0] * (32 - left)] for left in range(33)])
_LOW_BITS = np.uint64((1 << 5) - 1)
_LEAST_PIECES = 11  # of a stratum; smaller classes have fewer strata


class LengthSorted:
    """The pieces of a row of classes, each laid by length.

    Attributes:
        pieces: of all classes.
    """

    def __init__(self, lengths: npt.NDArray[Any], first_document: Int64s, max_length: int) -> None:
        """``lengths``: integers [documents], class after class, which are sorted in place; ``first_document``: int64
        [classes]."""
        self._first = first_document
        documents = np.diff(first_document, append=len(lengths))
        self._rows = np.array([_rows(count) for count in documents.tolist()], dtype=np.int64)
        self._local = np.zeros(len(lengths), dtype=np.uint8)
        room = room_for_ids(max_length)
        ends = (first_document + documents).tolist()
        for first, end in zip(first_document.tolist(), ends, strict=True):
            if end - first < _SORTED_FROM:
                self._local[first:end] = np.arange(end - first)
            else:
                self._local[first:end] = _by_length(lengths[first:end], room)
        self._table = ExampleTable(lengths, max_length)
        self.pieces = self._table.pieces

    def locate(self, piece: Int64s, row: Int64s, counts: Int64s) -> tuple[Int64s, npt.NDArray[Any], npt.NDArray[Any]]:
        """Where pieces lie: (document of its class, start, stop), each [N].

        Args:
            piece: int64 [N], numbers in the row of all classes.
            row, counts: int64 [R], classes that runs of pieces are of, and how many pieces each run has.
        """
        document, start, stop = self._table.locate(piece)
        local = self._local.take(document)
        document -= np.repeat(self._first[row], counts)
        rows = np.repeat(self._rows[row], counts)
        document &= rows - 1  # document q of the sorted class is of row q modulo the rows
        document += rows * local
        return document, start, stop


def _rows(documents: int) -> int:
    return 1 << max(0, (documents - 1) // _ROW).bit_length()


def _by_length(lengths: npt.NDArray[Any], room: int) -> npt.NDArray[np.uint8]:
    """Sort a class's ``lengths`` in place; returns each document's number in its row, uint8 [documents]."""
    documents = len(lengths)
    rows = _rows(documents)
    longest = -(-documents // rows)
    pieces = -(-lengths // room)
    key = np.full(rows * longest, 2**16 - 1, dtype=np.uint16)
    key[:documents] = (lengths // np.maximum(pieces, 1)) * 255 // room
    key[:documents] <<= np.uint16(8)
    table = key.reshape(longest, rows)
    table |= np.arange(longest, dtype=np.uint16)[:, None]
    key[documents:] = 2**16 - 1  # what the last rank lacks stays behind
    by_rank = np.sort(table.T, axis=1).T.reshape(-1)[:documents]
    local = (by_rank & np.uint16(0xFF)).astype(np.uint8)
    lengths[:] = lengths[local.astype(np.int64) * rows + np.arange(documents) % rows]
    return local


def stratified_permutation(index: Int64s, size: Int64s, key: U64, counts: Int64s) -> Int64s:
    """Which piece of its class, laid by length, comes at each place: a bijection of [0, size) for each run's key.

    Args:
        index: int64 [N], places in the class.
        size, key: int64 and uint64 [R], pieces of the class, and the key of its order.
        counts: int64 [R], places that each size and key is for.
    """
    bits = (size[:, None] >= _LEAST_PIECES << np.arange(1, _MOST_BITS + 1)).sum(axis=1)
    strata = size >> bits
    body = strata << bits
    mask = (1 << bits) - 1
    each_bits, each_mask = np.repeat(bits, counts), np.repeat(mask, counts)
    stratum = _REVERSED.take(index & each_mask) >> (_MOST_BITS - each_bits)
    stratum ^= np.repeat((key & _LOW_BITS).astype(np.int64) & mask, counts)  # where turns begin
    within = index >> each_bits
    each_strata = np.repeat(strata, counts)
    last = np.flatnonzero(within >= each_strata)
    within[last] = 0
    piece = permute(within, strata, key, counts, variant=stratum)
    piece += stratum * each_strata
    # Pieces that make no whole turn lie evenly among the others, and come last. Quotients are exact in float64.
    each_left, each_body = np.repeat(size - body, counts), np.repeat(body, counts)
    piece += (piece * each_left / each_body).astype(np.int64)
    left, whole = each_left[last], each_body[last]
    number = _LEFT[left, index[last] - whole]
    piece[last] = -(-(number + 1) * whole // left) + number
    return piece
