"""Lengths and copies, against the documents themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.text_store import text_store

from megatron_mmbert.report.store.counts import count_copies, count_lengths
from megatron_mmbert.tokenizer.load import Tokenizer

TEXTS = ["ban " * n for n in range(1, 40)]


def test_lengths_are_those_of_all_documents(tokenizer: Tokenizer, tmp_path: Path) -> None:
    store = text_store(tmp_path, tokenizer, {"aaa_Latn": ["tran"], "aab_Latn": TEXTS}, shard_bytes=300)
    assert len(store.manifest.shards) > 3
    for dataset in store.datasets:
        lengths = np.sort(store.document_lengths("web", dataset.language))
        found = count_lengths(store, dataset)
        assert (found.shortest, found.longest) == (lengths[0], lengths[-1])
        for share, value in ((0.5, found.median), (0.9, found.p90), (0.99, found.p99)):
            assert value == lengths[int(np.ceil(share * len(lengths))) - 1]
        assert sum(found.histogram) == len(lengths)
        for power, documents in enumerate(found.histogram):
            assert documents == ((lengths >= 2**power) & (lengths < 2 ** (power + 1))).sum()


@pytest.mark.parametrize("max_compared", [1 << 24, 16])
def test_one_document_that_is_there_again_and_again(tokenizer: Tokenizer, tmp_path: Path, max_compared: int) -> None:
    """Also where only a part of the documents is compared."""
    texts = TEXTS[:10] + ["the same"] * 30 + TEXTS[10:]
    store = text_store(tmp_path, tokenizer, {"aaa_Latn": ["x"], "aab_Latn": texts}, shard_bytes=300)
    copies = count_copies(store, store.datasets[1], max_compared)
    assert (copies.max_copies, copies.document) == (30, 10)
    if max_compared > len(texts):
        assert (copies.compared, copies.duplicates) == (len(texts), 29)
    assert count_copies(store, store.datasets[0]).max_copies == 1


def test_documents_of_equal_checksums_are_no_copies(tokenizer: Tokenizer, tmp_path: Path) -> None:
    """One pair in four billion of equal lengths; here the files are made to say so."""
    store = text_store(tmp_path, tokenizer, {"aaa_Latn": ["ban" * 5, "ban" * 4 + "tro"]})
    (dataset,) = store.datasets
    lengths = store.document_lengths("web", "aaa_Latn")
    assert lengths[0] == lengths[1]

    class Lying:
        datasets = store.datasets
        reader = staticmethod(store.reader)

        @staticmethod
        def lengths_and_checksums(source: str, language: str):  # type: ignore[no-untyped-def]
            yield lengths.astype(np.int32), np.zeros(2, np.uint32)

    assert count_copies(Lying(), dataset).max_copies == 1  # type: ignore[arg-type]
