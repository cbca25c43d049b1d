"""Counter-based randomness: 64-bit hashes, keys and streams of random words, as functions of keys and counters.

The order of the data, the masks and the keys of dropout come from here. Nothing depends on time, on the order of calls,
on Python's salted ``hash`` or on a global generator, so any sample, pack or mask can be made again alone, on any
machine.
"""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
Integers = int | npt.NDArray[Any]

_GOLDEN = 0x9E3779B97F4A7C15
_MASK_64 = (1 << 64) - 1
_SHIFT_1, _FACTOR_1 = np.uint64(30), np.uint64(0xBF58476D1CE4E5B9)
_SHIFT_2, _FACTOR_2 = np.uint64(27), np.uint64(0x94D049BB133111EB)


def mix64(x: U64) -> U64:
    """Apply the finalizer of splitmix64, a bijection of 64-bit words: uint64 [...] -> uint64 [...]."""
    # After the first line the array is our own, and is changed in place: fresh memory is what takes the time here.
    x = x ^ (x >> _SHIFT_1)
    x *= _FACTOR_1
    x ^= x >> _SHIFT_2
    x *= _FACTOR_2
    x ^= x >> np.uint64(31)
    return x


def _words(part: Integers) -> U64:
    """Return integers modulo 2^64, uint64 [...]."""
    return np.asarray(part & _MASK_64 if isinstance(part, int) else part).astype(np.uint64)


def hash64(*parts: Integers) -> U64:
    """Return the hash of a tuple of integers (taken modulo 2^64, in order); arrays broadcast to uint64 [...].

    All parts but the last being equal, different last parts never collide (each round is a bijection).
    """
    with np.errstate(over="ignore"):
        state: U64 = np.zeros((), dtype=np.uint64)
        for part in parts:
            state = mix64((state + np.uint64(_GOLDEN)) ^ _words(part))
        return np.asarray(state)


def key64(*parts: int) -> int:
    """Return ``hash64`` of plain integers as a plain integer."""
    return int(hash64(*parts))


def string_key(text: str) -> int:
    """Return a stable 64-bit key of ``text``: BLAKE2b of its UTF-8, as Python's ``hash`` differs in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def stream64(key: U64, counter: Integers) -> U64:
    """Return element ``counter`` of the splitmix64 stream that ``key`` seeds, uint64 [...] (both broadcast)."""
    with np.errstate(over="ignore"):
        steps = _words(counter) + np.uint64(1)
        steps *= np.uint64(_GOLDEN)
        return mix64(key + steps)


def to_unit(words: U64) -> npt.NDArray[np.float64]:
    """Return uniform float64 in [0, 1) from the top 53 bits of each word."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def to_below(words: U64, bound: int) -> npt.NDArray[np.int64]:
    """Return uniform int64 in [0, bound) from the top 32 bits of each word.

    ``bound`` is up to 2^31, and the bias at most bound / 2^32."""
    return ((words >> np.uint64(32)) * np.uint64(bound) >> np.uint64(32)).astype(np.int64)


def hash_on(state: U64, part: Integers) -> U64:
    """Return ``hash64(*parts, part)`` from ``state = hash64(*parts)``, so that a common beginning is hashed once."""
    with np.errstate(over="ignore"):
        return mix64((state + np.uint64(_GOLDEN)) ^ _words(part))


def keyed_order(key: U64) -> npt.NDArray[np.int64]:
    """Return the positions 0 ... N - 1 in the order of their keys, uint64 [N] -> int64 [N].

    The position replaces the key's lowest bits: sorting plain words is three times faster than an argsort
    (seven times than a stable one), and no two are equal, so every sorting algorithm gives the same order."""
    low = np.uint64((1 << max(len(key) - 1, 1).bit_length()) - 1)
    return (np.sort((key & ~low) | np.arange(len(key), dtype=np.uint64)) & low).astype(np.int64)
