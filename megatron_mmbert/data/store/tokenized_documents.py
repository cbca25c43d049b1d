"""Tokenized documents as columns: a worker sends them, a partition keeps them, a store is cut from them.

Many documents travel together, their ids end to end and one row of counts each: no work is done per document that
NumPy can do for all of them.
"""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

# Megatron's DType.optimal_dtype, without the seconds its import takes.
_UINT16_VOCAB = 65500

ROW = np.dtype([("tokens", "<i8"), ("bytes", "<i8"), ("words", "<i8"), ("crc32", "<u4"), ("digest", "V16")])
"""The counts of one document: its ids, the bytes and words of its text, the checksum of its ids in the store's dtype,
and 16 bytes that identify the text (zeros unless duplicates are looked for)."""

NO_DIGEST = bytes(16)


class TokenizedDocuments(NamedTuple):
    """Some documents of one language: their ids end to end, [tokens] in the store's dtype, and their rows, [documents]
    of :data:`ROW`."""

    language: str
    ids: npt.NDArray[Any]
    rows: npt.NDArray[Any]

    def take(self, keep: npt.NDArray[np.bool_]) -> TokenizedDocuments:
        """Return the documents marked in ``keep``, bool [documents]."""
        if keep.all():
            return self
        return TokenizedDocuments(self.language, self.ids[np.repeat(keep, self.rows["tokens"])], self.rows[keep])


def checksums_of(ids: npt.NDArray[Any], lengths: npt.NDArray[np.int64]) -> list[int]:
    """Return the CRC-32 of each document's ids; ``lengths``: the tokens of each, int64 [documents]."""
    content, end = ids.data.cast("B"), 0
    checksums = []
    for size in (lengths * ids.itemsize).tolist():
        checksums.append(zlib.crc32(content[end : end + size]))
        end += size
    return checksums


def store_dtype(vocab_size: int) -> str:
    """Return the NumPy name of the smallest type Megatron uses for ``vocab_size`` ids."""
    return "uint16" if vocab_size < _UINT16_VOCAB else "int32"
