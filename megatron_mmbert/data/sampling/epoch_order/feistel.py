"""Counter-based randomness: 64-bit hashes, and a keyed permutation of [0, n) that is computed, never stored.

Everything random in the data room comes from here, as a function of keys and counters. Nothing depends on time, on
the order of calls, on Python's salted ``hash`` or on a global generator, so any sample, pack or mask can be made again
alone, on any machine.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
Integers = int | npt.NDArray[Any]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1
_SHIFT_1, _FACTOR_1 = np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_2, _FACTOR_2 = np.uint64(27), np.uint64(0x94D049BB133111EB)
_FACTOR_3, _FACTOR_4 = np.uint32(0xC2B2AE35), np.uint32(0x85EBCA6B)  # of MurmurHash3's finaliser
_HALF = np.uint32(16)
_ROUNDS = 8  # of the permutation; even, so that rows and columns end where they began
_SMALL = 10
MOST_PERMUTED = 2**32 - 2**16
_CHUNK = 16384  # elements permuted at a time: their arrays stay in a core's cache


def mix64(x: U64) -> U64:
    """The finaliser of splitmix64, a bijection of 64-bit words: uint64 [...] -> uint64 [...]."""
    x = (x ^ (x >> _SHIFT_1)) * _FACTOR_1
    x = (x ^ (x >> _SHIFT_2)) * _FACTOR_2
    return x ^ (x >> np.uint64(31))


def _words(part: Integers) -> U64:
    """Integers modulo 2^64, uint64 [...]."""
    return np.asarray(part & _MASK_64 if isinstance(part, int) else part).astype(np.uint64)


def hash64(*parts: Integers) -> U64:
    """Hash of a tuple of integers (taken modulo 2^64), order matters; arrays broadcast. Returns uint64 [...].

    All parts but the last being equal, different last parts never collide (each round is a bijection).
    """
    with np.errstate(over="ignore"):
        state: U64 = np.zeros((), dtype=np.uint64)
        for part in parts:
            state = mix64((state + np.uint64(_GOLDEN)) ^ _words(part))
        return np.asarray(state)


def key64(*parts: int) -> int:
    """``hash64`` of plain integers as a plain integer."""
    return int(hash64(*parts))


def string_key(text: str) -> int:
    """A stable 64-bit key of ``text`` (BLAKE2b of its UTF-8; Python's own ``hash`` differs in every process)."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stream64(key: U64, counter: Integers) -> U64:
    """Element ``counter`` of the splitmix64 stream seeded with ``key`` (both broadcast): one multiply and one mix."""
    with np.errstate(over="ignore"):
        return mix64(key + (_words(counter) + np.uint64(1)) * np.uint64(_GOLDEN))


def to_unit(words: U64) -> npt.NDArray[np.float64]:
    """Uniform float64 in [0, 1) from the top 53 bits of each word."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def to_below(words: U64, bound: int) -> npt.NDArray[np.int64]:
    """Uniform int64 in [0, bound) from the top 32 bits of each word; ``bound`` up to 2^31 (bias at most bound/2^32)."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def hash_on(state: U64, part: Integers) -> U64:
    """``hash64(*parts, part)`` from ``state = hash64(*parts)``, so that what many hashes share is computed once."""
    with np.errstate(over="ignore"):
        return mix64((state + np.uint64(_GOLDEN)) ^ _words(part))


def keyed_order(key: U64) -> npt.NDArray[np.int64]:
    """The positions 0 ... N - 1 in the order of their keys, uint64 [N] -> int64 [N].

    The position takes the place of the key's lowest bits: sorting plain words is three times faster than an argsort
    (seven times than a stable one), and no two are equal, so every sorting algorithm gives the same order."""
    low = np.uint64((1 << max(len(key) - 1, 1).bit_length()) - 1)
    return (np.sort((key & ~low) | np.arange(len(key), dtype=np.uint64)) & low).astype(np.int64)


_ROUND_FACTORS = [np.uint32(key64(number) >> 32 | 1) for number in range(_ROUNDS)]  # tell the rounds apart


def sides(size: Integers) -> tuple[U32, U32]:
    """(rows, columns) of a near-square grid of ``rows x columns`` cells, at least ``size`` (1 ... 2^32 - 2^16) and less
    than ``size + rows`` of them. Square root and division are exact to the bit in IEEE arithmetic, on every machine."""
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
    """Image of ``index`` under the permutation of [0, size) that ``key`` selects.

    A Feistel network on the cells of a grid (Black and Rogaway 2002): index = row x columns + column; each round moves
    one coordinate, round its side, by a hash of the other, which is a bijection whatever the sides. The grid is less
    than one row larger than the domain, and what falls there goes through again (cycle walking): one index in
    sqrt(size), where a network on powers of two would send back up to three of four. Words of 32 bits are enough, as
    classes of documents (``classes``) keep domains small, and cost half of 64. Domains of a few elements are sorted by
    a hash instead.

    Args:
        index: int64 [N], in [0, size).
        size: one size or int64 [R], at most 2^32 - 2^16.
        key: uint64 scalar array or [R].
        counts: int64 [R], elements that each size and key is for, in order; None: R is N.
        variant: int64 [N], small numbers; each selects another permutation of the key.

    Raises:
        ValueError: a larger size.
    """
    if len(index) and int(np.max(size)) > MOST_PERMUTED:
        raise ValueError(f"a permutation of {int(np.max(size))} elements; the most is {MOST_PERMUTED}")
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
    at = np.flatnonzero(n <= _SMALL)
    x[at] = _rank(index[at], n[at], *(array[at] for array in each[1:3]))
    astray = np.flatnonzero(x >= n)
    while len(astray):
        x[astray] = _feistel(x[astray], *(array[astray] for array in each[1:]))
        astray = astray[x[astray] >= n[astray]]
    return x.astype(np.int64)


def _rank(x: npt.NDArray[np.int64], size: U32, low: U32, high: U32) -> U32:
    """Place of ``x`` among 0 ... size - 1 in the order of their hashes, all [N], ``size`` at most ``_SMALL``.

    For a few elements that is cheap, and every order is equally likely; the network would favour some orders, and send
    back up to a quarter of the elements."""
    key = (high.astype(np.uint64) << np.uint64(32)) | low
    others = np.arange(_SMALL)
    # The element's number takes the place of the lowest bits, so that no two are equal.
    hashes = (stream64(key[:, None], others) & ~np.uint64(15)) | others.astype(np.uint64)
    mine = np.take_along_axis(hashes, x[:, None], axis=1)
    rank: U32 = ((hashes < mine) & (others < size[:, None])).sum(axis=1, dtype=np.uint32)
    return rank


def _feistel(x: U32, low: U32, high: U32, rows: U32, columns: U32) -> U32:
    """Image of cells ``x`` of the grid; ``low`` and ``high`` are the key. All uint32 [N]. In place, for speed."""
    moved = x // columns
    other = x - moved * columns
    side, other_side = rows, columns
    work, shifted = np.empty_like(x), np.empty_like(x)
    for number in range(_ROUNDS):
        np.add(other, low, out=work)
        work *= _ROUND_FACTORS[number]
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
