"""Exact deduplication: of the documents of a language with the same text, the first one stays.

Texts are the same when they are after Unicode normalisation (NFC) with every run of white space as one space. They are
compared by 128 bits of BLAKE2b: among 10^10 documents the chance of any wrong hit is below 10^-18. A language's hashes
lie in one open-addressing table of 16 bytes a slot, between a quarter and half full: at most 64 bytes per different
document of the largest language, and half as much again while the table grows.
"""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

import numpy as np
import numpy.typing as npt

_START = 1 << 12


def text_digest(text: str) -> bytes:
    """Return 16 bytes that are the same for texts that are the same."""
    return hashlib.blake2b(" ".join(unicodedata.normalize("NFC", text).split()).encode(), digest_size=16).digest()


def chunk_digest(digest: bytes, index: int) -> bytes:
    """Return 16 bytes for the chunk after chunk ``index`` of a document, whose digest is given.

    The chunks of equal documents get equal digests, and no others do.
    """
    return hashlib.blake2b(digest + index.to_bytes(8, "little"), digest_size=16).digest()


class DigestSet:
    """A set of 128-bit digests; many are added at a time."""

    def __init__(self) -> None:
        self._slots: npt.NDArray[np.uint64] = np.zeros((_START, 2), np.uint64)
        self.count = 0

    def add(self, digests: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
        """Add ``digests``, 16 bytes each [N], and mark the new ones, bool [N]; of equal ones among them the first."""
        keys = np.frombuffer(digests.tobytes(), np.uint64).reshape(-1, 2).copy()
        keys[:, 1] |= np.uint64(1)  # an empty slot is all zeros, and no key may be
        _, first = np.unique(keys, axis=0, return_index=True)
        while 2 * (self.count + first.size) > len(self._slots):
            self._grow()
        new = np.zeros(len(keys), np.bool_)
        new[first[self._insert(keys[first])]] = True
        self.count += int(new.sum())
        return new

    def _grow(self) -> None:
        old = self._slots
        self._slots = np.zeros((2 * len(old), 2), np.uint64)
        for start in range(0, len(old), 1 << 16):
            block = old[start : start + (1 << 16)]
            self._insert(block[block[:, 1] != 0])

    def _insert(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Put different ``keys`` [n, 2] in by linear probing, and mark those that were not there, bool [n]."""
        new = np.zeros(len(keys), np.bool_)
        mask = len(self._slots) - 1
        slots = (keys[:, 0] & np.uint64(mask)).astype(np.int64)
        waiting: npt.NDArray[Any] = np.arange(len(keys))
        while waiting.size:
            held = self._slots[slots[waiting]]
            empty = held[:, 1] == 0
            claims = waiting[empty]
            # Several keys may claim one slot: the last one written has it, the others try the next.
            self._slots[slots[claims]] = keys[claims]
            won = (self._slots[slots[claims]] == keys[claims]).all(axis=1)
            new[claims[won]] = True
            known = (held == keys[waiting]).all(axis=1)
            waiting = np.concatenate([waiting[~empty & ~known], claims[~won]])
            slots[waiting] = (slots[waiting] + 1) & mask
        return new
