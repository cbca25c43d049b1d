"""A tokenizer and stores made of texts, without the preprocessing."""

from __future__ import annotations

from pathlib import Path

import pytest
import sentencepiece
from support.text_store import WORDS

from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """A SentencePiece model of Latin letters, everything else in bytes."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([" ".join(WORDS[n : n + 5]) for n in range(len(WORDS))] * 3),
        model_prefix=str(path.with_suffix("")),
        vocab_size=360,
        model_type="bpe",
        byte_fallback=True,
        pad_id=0,
        eos_id=1,
        bos_id=2,
        unk_id=3,
        user_defined_symbols=["<mask>"],
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    return load_tokenizer(Path(path))
