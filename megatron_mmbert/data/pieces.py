"""Cutting documents into samples: balanced pieces, found by number without storing one entry per piece."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

SPECIALS_PER_SAMPLE = 2  # <bos> and <eos>
_STRIDE = 32

Int64s = npt.NDArray[np.int64]


class PieceTable:
    """The pieces of a row of documents for a phase of ``max_length``.

    A document of n ids becomes ceil(n / (max_length - 2)) consecutive pieces whose lengths differ by at most one:
    nothing dropped, nothing repeated, and no short tail (cutting at max_length would leave a last piece of any length
    down to one id). A document without ids gives no piece.

    Memory: the lengths as int32 and one running count per 32 documents, 4.3 bytes per document. A full table of
    running counts would be 8 bytes more, 25 GB for the three billion documents of a real corpus; the last step of the
    search, inside a window of 32 documents, is done from the lengths.

    Attributes:
        pieces: number of pieces.
    """

    def __init__(self, lengths: npt.NDArray[Any], max_length: int) -> None:
        """``lengths``: integers [documents], ids per document; ``max_length``: tokens of a sample with its specials."""
        self._room = room_for_ids(max_length)
        self._lengths = narrow_lengths(lengths)
        windows = -(-len(lengths) // _STRIDE)
        per_window = np.zeros(windows, dtype=np.int64)
        for first, counts in _chunks_of_counts(self._lengths, self._room):
            at = first // _STRIDE
            sums = np.add.reduceat(counts, np.arange(0, len(counts), _STRIDE))
            per_window[at : at + len(sums)] = sums
        self._ends = np.cumsum(per_window)  # pieces up to and including each window
        self.pieces = int(self._ends[-1]) if windows else 0

    def locate(self, piece: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Where pieces lie: int64 [N] in [0, pieces) -> (document, start, stop), each int64 [N].

        Raises:
            IndexError: a piece number outside [0, pieces).
        """
        if len(piece) and not (0 <= int(piece.min()) and int(piece.max()) < self.pieces):
            raise IndexError(f"piece numbers must lie in [0, {self.pieces})")
        window = np.searchsorted(self._ends, piece, side="right")
        before = np.where(window > 0, self._ends[window - 1], 0)
        document = window[:, None] * _STRIDE + np.arange(_STRIDE)
        inside = document < len(self._lengths)
        lengths = np.where(inside, self._lengths[np.where(inside, document, 0)], 0)
        ends = before[:, None] + np.cumsum(_counts(lengths, self._room), axis=1)
        slot = (ends <= piece[:, None]).sum(axis=1)
        row = np.arange(len(piece))
        length = lengths[row, slot].astype(np.int64)
        count = _counts(length, self._room)
        number = piece - (ends[row, slot] - count)
        return window * _STRIDE + slot, number * length // count, (number + 1) * length // count


def room_for_ids(max_length: int) -> int:
    """Ids a sample of ``max_length`` holds beside its specials."""
    if max_length <= SPECIALS_PER_SAMPLE:
        raise ValueError(f"max_length {max_length} leaves no room beside <bos> and <eos>")
    return max_length - SPECIALS_PER_SAMPLE


def narrow_lengths(lengths: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Lengths as int32, or as int64 where a document of 2^31 ids needs it."""
    return lengths.astype(np.int32 if int(lengths.max(initial=0)) < 2**31 else np.int64, copy=False)


def count_pieces(lengths: npt.NDArray[Any], max_length: int) -> int:
    """Pieces of documents of ``lengths`` (integers [documents])."""
    return sum(int(counts.sum()) for _, counts in _chunks_of_counts(lengths, room_for_ids(max_length)))


def _counts(lengths: npt.NDArray[Any], room: int) -> Int64s:
    """Pieces per document, int64 with the shape of ``lengths``."""
    return -(-lengths.astype(np.int64) // room)


def _chunks_of_counts(lengths: npt.NDArray[Any], room: int) -> Iterator[tuple[int, Int64s]]:
    """(first document, pieces per document), half a million documents at a time to bound the temporary memory."""
    chunk = _STRIDE << 14
    for first in range(0, len(lengths), chunk):
        yield first, _counts(lengths[first : first + chunk], room)
