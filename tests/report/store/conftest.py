"""A tokenizer and stores made of texts, without the preprocessing."""

from __future__ import annotations

import pytest
from support.small_tokenizer import FAITHFUL, train_model
from support.text_store import WORDS

from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece model of Latin letters, everything else in bytes."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    texts = [" ".join(WORDS[n : n + 5]) for n in range(len(WORDS))] * 3
    options = {"vocab_size": 360, "user_defined_symbols": ["<mask>"], "hard_vocab_limit": False}
    return load_tokenizer(train_model(path, texts, **options, **FAITHFUL))
