"""Tokenized documents for tests that write stores without text."""

from __future__ import annotations

import zlib
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.tokenized_documents import ROW, TokenizedDocuments


def tokenized(
    language: str, ids: npt.NDArray[Any], size: int, words: int, digest: bytes = bytes(16)
) -> TokenizedDocuments:
    """Return one document."""
    return TokenizedDocuments(
        language, ids, np.array([(ids.size, size, words, zlib.crc32(ids.data), digest)], dtype=ROW)
    )
