"""Megatron's indexed dataset: the names of a shard's files, the header of its index, and Megatron's own reader.

An index is a header, the length of every sequence (int32), the byte offset of every sequence (int64), and the index of
every document's first sequence, with one past the last (int64). In a store each document is one sequence.
"""

from __future__ import annotations

import functools
import struct
import warnings
from types import ModuleType

BIN_ENDING = ".bin"
IDX_ENDING = ".idx"

_MAGIC = b"MMIDIDX\0\0"
_VERSION = 1
_HEADER = struct.Struct("<9sQBQQ")
"""The header: magic, version, code of the ids' type, number of sequences, number of documents plus one."""
_DTYPE_CODES = {"int32": 4, "uint16": 8}

HEADER_BYTES = _HEADER.size
LENGTH_BYTES = 4
OFFSET_BYTES = 8


def pack_header(dtype: str, documents: int) -> bytes:
    """Return the header of an index of ``documents`` documents of one sequence each, ``HEADER_BYTES`` long."""
    return _HEADER.pack(_MAGIC, _VERSION, _DTYPE_CODES[dtype], documents, documents + 1)


def index_bytes(documents: int) -> int:
    """Return the bytes of an index of ``documents`` documents of one sequence each."""
    return HEADER_BYTES + documents * (LENGTH_BYTES + OFFSET_BYTES) + (documents + 1) * OFFSET_BYTES


@functools.cache
def indexed_dataset() -> ModuleType:
    """Return the module ``megatron.core.datasets.indexed_dataset``, imported at the first call and quietly.

    No command needs it: a store is read by ``shard.py``. Tests and benchmarks compare with it. Importing anything of
    ``megatron.core`` costs seconds and prints warnings about GPU libraries.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets import indexed_dataset as module
    return module
