"""Cutting documents into samples: balanced pieces, found by number from three bits of memory each."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.constants import SPECIAL_TOKENS_PER_SAMPLE

_CHUNK = 1 << 19  # documents looked at together, to bound the temporary memory
_WORD_BITS = 64

Int64s = npt.NDArray[np.int64]
U64 = npt.NDArray[np.uint64]


class ExampleTable:
    """The pieces of a row of documents for a phase of ``max_length``.

    A document of n ids becomes ceil(n / (max_length - 2)) consecutive pieces whose lengths differ by at most one:
    nothing dropped, nothing repeated, and no short tail (cutting at max_length would leave a last piece of any length
    down to one id). A document without ids gives no piece.

    One bit per piece says whether it is the first of its document; a piece's document is then the number of ones up
    to it, counted from a running total per word of 64 bits, and its place in the document the distance to the last
    one. No search: a few operations per piece. Memory: 3 bits per piece and the lengths as int32, about 4.5 bytes per
    document; a table of running counts would take 12.

    Attributes:
        pieces: number of pieces.
    """

    def __init__(self, lengths: npt.NDArray[Any], max_length: int) -> None:
        """``lengths``: integers [documents], ids per document; ``max_length``: tokens of a sample with its specials."""
        self._room = room_for_ids(max_length)
        lengths = narrow_lengths(lengths)
        self._numbers = None if lengths.all() else np.flatnonzero(lengths)  # of the documents with ids
        self._lengths = lengths if self._numbers is None else lengths[self._numbers]
        self.pieces = count_examples(self._lengths, max_length)
        is_first = self._first_pieces()
        ones = np.bitwise_count(is_first).astype(np.int64)
        word = np.arange(len(ones))
        last = np.maximum.accumulate(np.where(ones > 0, word * _WORD_BITS + _highest_bit(is_first), 0))
        # [words, 3]: the bits, documents begun before the word, first piece of the last of those: one row, one fetch.
        self._words = np.stack([is_first.view(np.int64), np.cumsum(ones) - ones, np.roll(last, 1)], axis=1)

    def _first_pieces(self) -> U64:
        """uint64 [words]: bit p says whether piece p is the first of its document."""
        bits = np.zeros(-(-self.pieces // _WORD_BITS), dtype="<u8")
        in_bytes = bits.view(np.uint8)
        piece = 0
        for _, counts in _chunks_of_counts(self._lengths, self._room):
            ends = piece + np.cumsum(counts, dtype=np.int64)
            begin = piece - piece % 8
            flags = np.zeros(int(ends[-1]) - begin, dtype=np.bool_)
            flags[ends - counts - begin] = True
            packed = np.packbits(flags, bitorder="little")
            in_bytes[begin // 8 : begin // 8 + len(packed)] |= packed
            piece = int(ends[-1])
        return bits

    def locate(self, piece: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Where pieces lie: int64 [N] in [0, pieces) -> document int64 [N], start and stop [N], integers.

        Raises:
            IndexError: a piece number outside [0, pieces).
        """
        if len(piece) and not (0 <= int(piece.min()) and int(piece.max()) < self.pieces):
            raise IndexError(f"piece numbers must lie in [0, {self.pieces})")
        bits, documents_before, began = np.take(self._words, piece >> 6, axis=0).T
        seen = bits.view(np.uint64) & (~np.uint64(0) >> (~piece & 63).astype(np.uint64))
        document = documents_before + np.bitwise_count(seen) - 1
        stop = self._lengths.take(document)
        start = np.zeros_like(stop)
        cut = np.flatnonzero(stop > self._room)  # most documents are one piece: the arithmetic is for the others
        seen, piece, length = seen[cut], piece[cut], stop[cut]
        first = np.where(seen != 0, (piece & ~63) + _highest_bit(seen), began[cut])
        count = _counts(length, self._room)
        least = length // count
        longer = length - least * count  # so many pieces, the first ones, have one id more
        number = (piece - first).astype(length.dtype)
        start[cut] = number * least + np.minimum(number, longer)
        stop[cut] = start[cut] + least + (number < longer)
        return document if self._numbers is None else self._numbers[document], start, stop


def _highest_bit(words: U64) -> Int64s:
    """Number of the highest bit set, int64 [N]; anything for 0.

    Clearing every bit below another leaves the highest where it is and rules out rounding up to the next power of two,
    so the exponent of the number as float64 is exact."""
    return ((words & ~(words >> np.uint64(1))).astype(np.float64).view(np.int64) >> 52) - 1023


def room_for_ids(max_length: int) -> int:
    """Ids a sample of ``max_length`` holds beside its specials."""
    if max_length <= SPECIAL_TOKENS_PER_SAMPLE:
        raise ValueError(f"max_length {max_length} leaves no room beside <bos> and <eos>")
    return max_length - SPECIAL_TOKENS_PER_SAMPLE


def narrow_lengths(lengths: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lengths as int32, or as int64 where a document of 2^31 ids needs it."""
    return lengths.astype(np.int32 if int(lengths.max(initial=0)) < 2**31 else np.int64, copy=False)


def count_examples(lengths: npt.NDArray[Any], max_length: int) -> int:
    """Pieces of documents of ``lengths`` (integers [documents])."""
    return sum(int(counts.sum(dtype=np.int64)) for _, counts in _chunks_of_counts(lengths, room_for_ids(max_length)))


def _counts(lengths: npt.NDArray[Any], room: int) -> npt.NDArray[Any]:
    """Pieces per document, shape and type of ``lengths``."""
    return -(-lengths // room)


def _chunks_of_counts(lengths: npt.NDArray[Any], room: int) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """(first document, pieces per document), some documents at a time."""
    for first in range(0, len(lengths), _CHUNK):
        yield first, _counts(lengths[first : first + _CHUNK], room)
