"""Token stores made of texts in memory."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice, product
from pathlib import Path

import numpy as np

from megatron_mmbert.data.store.manifest import Manifest, TokenizerEntry, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.tokenized_documents import store_dtype
from megatron_mmbert.data.store.writer import StoreWriter
from megatron_mmbert.tokenizer.load import Tokenizer
from support.tokenized import tokenized

WORDS = [
    first + vowel + last
    for first in ("b", "d", "st", "k", "m", "tr", "v")
    for vowel in ("a", "ei", "o", "u")
    for last in ("n", "r", "sk", "t")
]
"""Words of no language."""


def words(pick: random.Random, count: int) -> str:
    """Return a text of ``count`` words."""
    return " ".join(pick.choices(WORDS, k=count))


def text_store(
    folder: Path,
    tokenizer: Tokenizer,
    texts: Mapping[str, Sequence[str]],
    source: str = "web",
    shard_bytes: int = 1 << 30,
) -> Store:
    """Write the store of ``texts`` by language, and open it."""
    folder.mkdir(parents=True, exist_ok=True)
    dtype = store_dtype(tokenizer.vocab_size)
    writer = StoreWriter(folder, source, dtype, shard_bytes)
    for language, documents in texts.items():
        for text in documents:
            ids = np.array(tokenizer.encode(text), dtype=dtype)
            writer.add(tokenized(language, ids, len(text.encode("utf-8", "replace")), max(1, len(text.split()))))
    datasets = writer.finish()
    entry = TokenizerEntry(str(tokenizer.path), tokenizer.fingerprint(), tokenizer.vocab_size)
    save_manifest(folder, Manifest(dtype, entry, datasets, tuple(writer.shards)))
    return Store.open(folder)


def codes(count: int) -> list[str]:
    """Return language codes of FineWeb2's form."""
    return list(islice(_codes(), count))


def _codes() -> Iterator[str]:
    letters = "abcdefghijklmnopqrstuvwxyz"
    return (f"{''.join(three)}_{script}" for three in product(letters, repeat=3) for script in ("Latn", "Cyrl"))
