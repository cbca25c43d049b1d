"""Remembered words give the ids that SentencePiece gives the whole text."""

from __future__ import annotations

import random
from typing import Any

import pytest
from support.tokenizer_samples import HOSTILE, TEXTS

from megatron_mmbert.tokenizer import word_cache
from megatron_mmbert.tokenizer.engines import SentencePieceEngine
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.tokenizer.sentencepiece_proto import Kind
from megatron_mmbert.tokenizer.word_cache import WordCache, has_separate_words

ALL_TEXTS = [text for texts in TEXTS.values() for text in texts] + HOSTILE


def mixed_texts(count: int) -> list[str]:
    """Words of all samples with every kind of white space between them."""
    pick = random.Random(0)
    some = [word for text in ALL_TEXTS for word in text.split()]
    spaces = [" ", " ", " ", "\n", "\n\n", "  ", " \n", "\n ", "\n\n\n", "   ", "\t", "\u00a0", "\u3000", "\r\n", "▁"]
    return ["".join(pick.choice(some) + pick.choice(spaces) for _ in range(pick.randrange(80))) for _ in range(count)]


@pytest.mark.parametrize("max_words", [1 << 17, 40])
def test_ids_are_those_of_the_whole_text(max_words: int, trained: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_cache, "_MAX_WORDS", max_words)
    engine = trained._engine
    assert isinstance(engine, SentencePieceEngine) and has_separate_words(engine._proto)
    encoder = WordCache(engine._processor.encode)
    texts = ALL_TEXTS + mixed_texts(400) + ["", " ", "\n", "  ", " a", "\na", "a ", "a\n"]
    for first in range(0, len(texts), 50):
        some = texts[first : first + 50]
        expected = [trained.encode(text) for text in some]
        assert [ids.tolist() for ids in encoder.encode(some)] == expected
        assert [ids.tolist() for ids in trained.encode_arrays(some)] == expected
    kept = encoder._after_space
    assert len(kept._new) + len(kept._old) <= 2 * max_words + 4000


def test_a_model_whose_words_are_not_separate_is_known(trained: Tokenizer) -> None:
    engine: Any = trained._engine

    def changed(change: Any) -> Any:
        proto = type(engine._proto)()
        proto.CopyFrom(engine._proto)
        change(proto)
        return has_separate_words(proto)

    assert changed(lambda proto: None)
    assert not changed(lambda proto: proto.pieces.add(piece="of▁the", score=-1.0, type=Kind.NORMAL))
    assert not changed(lambda proto: proto.pieces.add(piece="end\n", score=0.0, type=Kind.USER_DEFINED))
    assert not changed(lambda proto: setattr(proto.normalizer_spec, "add_dummy_prefix", True))
    assert not changed(lambda proto: setattr(proto.normalizer_spec, "name", "nmt_nfkc"))
    assert not changed(lambda proto: setattr(proto.trainer_spec, "byte_fallback", False))
    assert not changed(lambda proto: setattr(proto.trainer_spec, "model_type", 1))
