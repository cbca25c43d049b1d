"""What is learned: the exact size, an alphabet that fits, no line lost, small languages covered."""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.special_tokens import FIXED_PIECES
from megatron_mmbert.tokenizer.train import train_tokenizer
from megatron_mmbert.tokenizer.train_sentencepiece import choose_alphabet
from megatron_mmbert.utils.errors import UserError

MakeCorpus = Callable[[dict[str, list[str]]], Path]


def learned(tokenizer: Tokenizer) -> list[str]:
    """The learned pieces of two characters and more, without the runs of white space."""
    pieces = [tokenizer.piece(i) for i in range(FIXED_PIECES, tokenizer.vocab_size)]
    return [piece for piece in pieces if len(piece) > 1]


def made_up_language(letters: str, words: int, seed: int) -> str:
    """Text of words that are drawn unevenly from a vocabulary of 300."""
    draw = random.Random(seed)
    vocabulary = ["".join(draw.choices(letters, k=draw.randint(2, 8))) for _ in range(300)]
    return "\n".join(" ".join(draw.choices(vocabulary, k=12)) for _ in range(words // 12))


def test_small_languages_get_more_pieces_at_a_low_temperature(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    large, small = made_up_language("abcdefghijklm", 60_000, 1), made_up_language("αβγδεζηθικλμν", 600, 2)
    inputs = [make_corpus({"eng_Latn": [large], "ell_Grek": [small]})]
    greek = {}
    for tau in (0.3, 1.0):
        settings = Settings(vocab_size=900, temperature=tau)
        tokenizer = train_tokenizer(inputs, tmp_path / f"tau{tau}", settings)[0]
        greek[tau] = sum(re.search("[α-ω]", piece) is not None for piece in learned(tokenizer))
    assert greek[0.3] >= 15 and greek[0.3] > 3 * greek[1.0], greek


def test_vocabulary_too_large_says_what_is_possible(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    inputs = [
        make_corpus({"eng_Latn": ["the cat sat on the mat, the bat sat on the cat"] * 3, "cmn_Hani": ["人人生而自由"]})
    ]
    with pytest.raises(UserError, match=r"at most ([0-9]+) pieces; pass --vocab-size") as caught:
        train_tokenizer(inputs, tmp_path / "tokenizer", Settings(vocab_size=5000))
    found = re.search("at most ([0-9]+)", str(caught.value))
    assert found
    possible = int(found[1])
    assert train_tokenizer(inputs, tmp_path / "tokenizer", Settings(vocab_size=possible))[0].vocab_size == possible
    with pytest.raises(UserError, match="at most"):
        train_tokenizer(inputs, tmp_path / "more", Settings(vocab_size=possible + 1))
    assert not (tmp_path / "more").exists()


def test_alphabet_is_the_commonest_characters_and_half_the_room() -> None:
    weights = Counter({chr(0x4E00 + n): 1000 - n for n in range(900)})
    alphabet = choose_alphabet(weights, Settings(vocab_size=FIXED_PIECES + 200))
    assert alphabet == {chr(0x4E00 + n) for n in range(100)}
    with pytest.raises(UserError, match=r"--character-coverage 1.0: needs 900 characters.* room for 200"):
        choose_alphabet(weights, Settings(vocab_size=FIXED_PIECES + 200, character_coverage=1.0))
    assert len(choose_alphabet(weights, Settings(vocab_size=FIXED_PIECES + 1000, character_coverage=0.5))) < 500


def test_no_line_is_dropped(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    # SentencePiece leaves out lines beyond its limit of 4192 bytes, and lines with U+2585, without a word.
    texts = {"rus": ["зебра " * 680] * 9, "eng": ["quagga ▅ quagga quagga"] * 9, "deu": ["okapi\x00okapi okapi"] * 9}
    tokenizer = train_tokenizer([make_corpus(texts)], tmp_path / "tokenizer", Settings(vocab_size=FIXED_PIECES + 34))[0]
    assert {"▁зебра", "▁quagga", "▁okapi"} <= set(learned(tokenizer))


def test_spaces_survive_in_a_tokenizer_of_a_script_without_them(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    inputs = [make_corpus({"cmn_Hani": ["人人生而自由在尊严和权利上一律平等" * 5]})]
    tokenizer = train_tokenizer(inputs, tmp_path / "tokenizer", Settings(vocab_size=FIXED_PIECES + 25))[0]
    assert tokenizer.decode(tokenizer.encode("a b  人")) == "a b  人"
    assert len(tokenizer.encode(" ")) == 1


def test_nothing_drawn_is_an_error(make_corpus: MakeCorpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--max-bytes 1: too few"):
        train_tokenizer([make_corpus({"eng": ["word " * 900]})], tmp_path / "t", Settings(vocab_size=300, max_bytes=1))
