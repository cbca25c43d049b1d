"""More tokens in one shard than 32 bits can count, in files that take no room on the disk."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from megatron_mmbert.data.store.manifest import (
    DatasetEntry,
    Extent,
    Manifest,
    ShardEntry,
    TokenizerEntry,
    save_manifest,
)
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.shard import sha256_of

LENGTH = 2_000_000_000  # nearly the largest length an index can hold
DOCUMENTS = 21
TOKENS = LENGTH * DOCUMENTS


def make_store(folder: Path, dtype: str) -> None:
    """A store of 42 billion zeros, with a few other ids at the ends of documents."""
    width = np.dtype(dtype).itemsize
    with (folder / "shard-00000.bin").open("wb") as file:
        try:
            file.truncate(TOKENS * width)
        except OSError:
            pytest.skip("no sparse files of this size on this disk")
        for document in range(DOCUMENTS):
            file.seek(((document + 1) * LENGTH - 1) * width)
            file.write(np.array([1000 + document], dtype).tobytes())
    code = {"uint16": 8, "int32": 4}[dtype]
    header = struct.pack("<9sQBQQ", b"MMIDIDX\0\0", 1, code, DOCUMENTS, DOCUMENTS + 1)
    lengths = np.full(DOCUMENTS, LENGTH, "<i4")
    pointers = np.arange(DOCUMENTS, dtype="<i8") * LENGTH * width
    ends = np.arange(DOCUMENTS + 1, dtype="<i8")
    (folder / "shard-00000.idx").write_bytes(header + lengths.tobytes() + pointers.tobytes() + ends.tobytes())
    group = DatasetEntry("web", "eng", DOCUMENTS, TOKENS, TOKENS, DOCUMENTS, (Extent(0, 0, DOCUMENTS),))
    sizes = [(folder / f"shard-00000.{ending}").stat().st_size for ending in ("bin", "idx")]
    (folder / "shard-00000.crc32").write_bytes(bytes(4 * DOCUMENTS))
    sums = [sha256_of(folder / f"shard-00000.{ending}") for ending in ("idx", "crc32")]
    shard = ShardEntry("shard-00000", DOCUMENTS, TOKENS, *sizes, "", *sums)
    save_manifest(folder, Manifest(dtype, TokenizerEntry("t", "f", 60_000), (group,), (shard,)))


@pytest.mark.parametrize("dtype", ["uint16", "int32"])
def test_more_than_40_billion_tokens_in_one_shard(dtype: str, tmp_path: Path) -> None:
    make_store(tmp_path, dtype)
    store = Store.open(tmp_path, check_share=0)  # to read a document whole takes seconds
    lengths = store.document_lengths("web", "eng")
    assert lengths.dtype == np.int64 and lengths.sum() == store.datasets[0].tokens == TOKENS > 40 * 10**9
    for document in range(DOCUMENTS):
        last = store.tokens("web", "eng", document, LENGTH - 2, LENGTH)
        assert last.tolist() == [0, 1000 + document]
        assert store.tokens("web", "eng", document, 0, 3).tolist() == [0, 0, 0]
