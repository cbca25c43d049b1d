"""Packing: the samples of a block laid into packs of T tokens."""

from __future__ import annotations

from bisect import bisect_left, insort
from heapq import heapreplace

import numpy as np
import numpy.typing as npt

from megatron_mmbert.utils.counter_rng import hash64

Int64s = npt.NDArray[np.int64]


def pack_block(lengths: Int64s, capacity: int, key: int) -> list[Int64s]:
    """Divide samples into packs of at most ``capacity`` tokens.

    Longest first, each sample goes into the emptiest of ceil(total / capacity) packs. All packs then have nearly the
    same fill and the same mix of lengths, so ranks that work on different packs of a step do the same amount of
    attention, and no pack is all long or all short documents, as best fit decreasing makes them. Where samples are so
    large that some do not fit that way, the block is also packed by best fit decreasing and the fewer packs win.

    Args:
        lengths: int64 [N], tokens with specials.
        capacity: T.
        key: 64-bit key of the packs' order.

    Returns:
        Packs, each an int64 array of indices in ``lengths``, ascending (the block's shuffled order); the packs in
        keyed order.

    Raises:
        ValueError: a sample is longer than ``capacity``.
    """
    if not len(lengths):
        return []
    if int(lengths.max()) > capacity:
        raise ValueError(f"a sample of {int(lengths.max())} tokens does not fit a pack of {capacity}")
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths = lengths[order].tolist()
    fewest = -(-sum(sorted_lengths) // capacity)
    pack_of = _emptiest_first(sorted_lengths, capacity, fewest)
    if max(pack_of) >= fewest:
        pack_of = min(pack_of, _best_fit(sorted_lengths, capacity), key=max)
    packs_sorted = np.empty(len(lengths), dtype=np.int64)
    packs_sorted[order] = pack_of
    by_pack = np.argsort(packs_sorted, kind="stable")
    count = max(pack_of) + 1
    packs = np.split(by_pack, np.cumsum(np.bincount(packs_sorted, minlength=count))[:-1])
    shuffled = np.argsort(hash64(key, np.arange(count)), kind="stable")
    return [packs[index] for index in shuffled]


def _emptiest_first(lengths: list[int], capacity: int, packs: int) -> list[int]:
    """Return the pack of each sample, ``lengths`` descending: the emptiest of ``packs``.

    What fits none of them any more goes, by best fit, into packs after them."""
    heap = list(range(packs))  # load * packs + index: one integer per pack, ordered by load, then index
    pack_of: list[int] = []
    overflow: list[int] = []
    for position, length in enumerate(lengths):
        lightest = heap[0]
        if lightest // packs + length <= capacity:
            pack_of.append(lightest % packs)
            heapreplace(heap, lightest + length * packs)
        else:
            pack_of.append(-1)
            overflow.append(position)
    more = _best_fit([lengths[position] for position in overflow], capacity)
    for position, extra in zip(overflow, more, strict=True):
        pack_of[position] = packs + extra
    return pack_of


def _best_fit(lengths: list[int], capacity: int) -> list[int]:
    """Return the pack of each sample, ``lengths`` descending: the fullest that it fits into, or else a new one."""
    free: list[tuple[int, int]] = []  # (free tokens, pack), ascending
    pack_of = []
    opened = 0
    for length in lengths:
        fullest = bisect_left(free, (length, -1))
        if fullest < len(free):
            free_tokens, pack = free.pop(fullest)
        else:
            free_tokens, pack = capacity, opened
            opened += 1
        insort(free, (free_tokens - length, pack))
        pack_of.append(pack)
    return pack_of
