from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from megatron_mmbert.data.text.document_splitter import DocumentSplitter, cut_places
from megatron_mmbert.data.text.sentence_splitter import TrainedSplitter
from megatron_mmbert.tokenizer.load import load_tokenizer


def test_places_are_the_best_kind_in_reach_and_near_an_even_share() -> None:
    def cut(length: int, *places: list[int]) -> list[int]:
        kinds = [np.array(some, np.int64) for some in (*places, [], [], [], [])[:4]]
        return cut_places(length, 100, kinds)

    assert cut(100, [50]) == []
    assert cut(150, [10, 60, 80, 140]) == [80]
    assert cut(150, [], [70], [75]) == [70], "a line end before a space"
    assert cut(150, [], [], [74]) == [74]
    assert cut(150) == [75], "no place: even pieces"
    assert cut(200, [60, 120]) == [60, 120], "for sentence ends a piece more"
    assert cut(150, [3]) == [75], "too near the beginning"


def test_pieces_are_never_too_long_and_hold_everything() -> None:
    pick = random.Random(0)
    for _ in range(500):
        length, room = pick.randrange(1, 2000), pick.randrange(5, 300)
        kinds = [np.unique(pick.choices(range(1, length + 1), k=pick.randrange(1, 60))) for _ in range(3)]
        ends = [0, *cut_places(length, room, kinds), length]
        sizes = np.diff(ends)
        assert (sizes > 0).all() and (sizes <= room).all()
        assert len(sizes) <= 2 * -(-length // room) + 1


ENGLISH = "Dr. Smith went to the big house and sat there. He did not see anyone at all! Was it late? Nobody knew it. "
TEXTS = {
    "eng_Latn": (ENGLISH * 12, (".", "!", "?")),
    "jpn_Jpan": ("日本語文字列試験。文字列試験日本語文字列「試験。」語文字列試験。" * 20, ("。", "」")),
    "hin_Deva": ("यह एक वाक्य है। और यह दूसरा वाक्य है। " * 20, ("।",)),
    "urd_Arab": ("یہ ایک جملہ ہے۔ یہ دوسرا جملہ ہے۔ " * 20, ("۔",)),
    "tha_Thai": ("ภาษาไทยไม่มีเครื่องหมาย จบประโยคแบบนี้ " * 20, ("ย", "้")),
}


@pytest.mark.parametrize("language", TEXTS)
def test_pieces_end_where_sentences_do(language: str, faithful_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(faithful_tokenizer)
    text, endings = TEXTS[language]
    ids = tokenizer.encode_arrays([text])[0]
    cutter = DocumentSplitter({"eng_Latn": TrainedSplitter(abbreviations=["dr"])}, 150, tokenizer.piece_bytes)
    pieces = cutter.cut(language, text, ids)
    assert len(pieces) > 4 and [piece.start for piece in pieces[1:]] == [piece.stop for piece in pieces[:-1]]
    found = [tokenizer.decode(ids[piece.start : piece.stop]) for piece in pieces]
    assert "".join(found) == text
    assert [(piece.bytes, piece.words) for piece in pieces] == [(len(t.encode()), len(t.split())) for t in found]
    assert all(piece.stop - piece.start <= 150 for piece in pieces)
    assert all(some.endswith(endings) and not some.endswith("Dr.") for some in found[:-1]), found


def test_without_places_in_the_text_pieces_are_even(faithful_tokenizer: Path) -> None:
    """A tokenizer that changes text: no token's place in it is known."""
    tokenizer = load_tokenizer(faithful_tokenizer)
    ids = tokenizer.encode_arrays([ENGLISH * 12])[0]
    pieces = DocumentSplitter({}, 150, tokenizer.piece_bytes + 2).cut("eng_Latn", ENGLISH * 12, ids)
    sizes = [piece.stop - piece.start for piece in pieces]
    assert len(sizes) == -(-ids.size // 150) and max(sizes) - min(sizes) <= 1
    assert sum(piece.bytes for piece in pieces) == len(ENGLISH * 12)
    assert all(piece.words > 10 for piece in pieces)
