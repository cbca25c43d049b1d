"""A keyed permutation of [0, n) that is computed element by element, never stored."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from megatron_mmbert.utils.counter_rng import U64, Integers, key64, stream64

U32 = npt.NDArray[np.uint32]

MAX_PERMUTED = 2**32 - 2**16
_FACTOR_3, _FACTOR_4 = np.uint32(0xC2B2AE35), np.uint32(0x85EBCA6B)  # of MurmurHash3's finaliser
_HALF = np.uint32(16)
_ROUNDS = 8  # even, so that rows and columns end where they began
_SMALL = 10
_CHUNK = 16384  # elements permuted at a time: their arrays stay in a core's cache

_ROUND_FACTORS = [np.uint32(key64(round_) >> 32 | 1) for round_ in range(_ROUNDS)]  # tell the rounds apart


def sides(size: Integers) -> tuple[U32, U32]:
    """Return (rows, columns) of a near-square grid of ``size`` cells or a few more, uint32 in the shape of ``size``.

    There are at least ``size`` (1 ... 2^32 - 2^16) cells and less than ``size + rows``. Square root and division are
    exact to the bit in IEEE arithmetic, on every machine."""
    n = np.asarray(size, dtype=np.uint64)
    rows = np.sqrt((n - np.uint64(1)).astype(np.float64)).astype(np.uint64) + np.uint64(1)
    return rows.astype(np.uint32), ((n + rows - np.uint64(1)) // rows).astype(np.uint32)


def permute(
    index: npt.NDArray[np.int64],
    size: Integers,
    key: U64,
    counts: npt.NDArray[np.int64] | None = None,
    variant: npt.NDArray[np.int64] | None = None,
) -> npt.NDArray[np.int64]:
    """Return the image of ``index`` under the permutation of [0, size) that ``key`` selects.

    A Feistel network on the cells of a grid (Black and Rogaway 2002): index = row x columns + column; each round moves
    one coordinate, round its side, by a hash of the other, which is a bijection whatever the sides. The grid is less
    than one row larger than the domain, and what falls there goes through again (cycle walking): one index in
    sqrt(size), where a network on powers of two would send back up to three of four. Words of 32 bits are enough, as
    stripes keep domains small, and cost half of 64. Domains of a few elements are sorted by a hash instead.

    Args:
        index: int64 [N], in [0, size).
        size: one size or int64 [R], at most 2^32 - 2^16.
        key: uint64 scalar array or [R].
        counts: int64 [R], how many of ``index`` each size and key is for; None: R is N.
        variant: int64 [N], small numbers; each selects another permutation of the key.

    Raises:
        ValueError: a larger size.
    """
    if len(index) and int(np.max(size)) > MAX_PERMUTED:
        raise ValueError(f"a permutation of {int(np.max(size))} elements; the most is {MAX_PERMUTED}")
    low, high = (key & np.uint64(2**32 - 1)).astype(np.uint32), (key >> np.uint64(32)).astype(np.uint32)
    runs = (np.asarray(size, np.int64).astype(np.uint32), low, high, *sides(size))
    each = [np.broadcast_to(r, index.shape) if counts is None else np.repeat(r, counts) for r in runs]
    if variant is not None:
        each[1] = each[1] + variant.astype(np.uint32) * _FACTOR_4
    n = each[0]
    x = index.astype(np.uint32)
    for first in range(0, len(x), _CHUNK):
        chunk = slice(first, first + _CHUNK)
        x[chunk] = _feistel(x[chunk], *(array[chunk] for array in each[1:]))
    small = np.flatnonzero(n <= _SMALL)
    x[small] = _rank(index[small], n[small], *(array[small] for array in each[1:3]))
    outside = np.flatnonzero(x >= n)
    while len(outside):
        x[outside] = _feistel(x[outside], *(array[outside] for array in each[1:]))
        outside = outside[x[outside] >= n[outside]]
    return x.astype(np.int64)


def _rank(x: npt.NDArray[np.int64], size: U32, low: U32, high: U32) -> U32:
    """Return the rank of ``x`` among 0 ... size - 1 in the order of their hashes, all [N]; ``size`` is at most 10.

    For a few elements that is cheap, and every order is equally likely; the network would favour some orders, and send
    back up to a quarter of the elements."""
    key = (high.astype(np.uint64) << np.uint64(32)) | low
    others = np.arange(_SMALL)
    # The element itself replaces the lowest bits, so that no two are equal.
    hashes = (stream64(key[:, None], others) & ~np.uint64(15)) | others.astype(np.uint64)
    own = np.take_along_axis(hashes, x[:, None], axis=1)
    rank: U32 = ((hashes < own) & (others < size[:, None])).sum(axis=1, dtype=np.uint32)
    return rank


def _feistel(x: U32, low: U32, high: U32, rows: U32, columns: U32) -> U32:
    """Return the image of cells ``x`` of the grid; ``low`` and ``high`` are the key. All uint32 [N]."""
    moved = x // columns
    other = x - moved * columns
    side, other_side = rows, columns
    work, shifted = np.empty_like(x), np.empty_like(x)
    for factor in _ROUND_FACTORS:
        np.add(other, low, out=work)
        work *= factor
        np.right_shift(work, _HALF, out=shifted)
        work ^= shifted
        work += high
        work *= _FACTOR_3
        work >>= _HALF
        work *= side
        work >>= _HALF  # now in [0, side), some values at most once more in 2^16 than others; four rounds even it out
        moved += work
        np.subtract(moved, side, out=work)
        np.minimum(moved, work, out=moved)  # below side: moved - side has wrapped to a huge number
        moved, other, side, other_side = other, moved, other_side, side
    return moved * columns + other
