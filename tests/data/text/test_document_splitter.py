from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from megatron_mmbert.data.text.document_splitter import DocumentSplitter, cut_positions
from megatron_mmbert.data.text.sentence_splitter import TrainedSplitter
from megatron_mmbert.tokenizer.load import load_tokenizer


def test_cuts_are_of_the_best_kind_in_reach_and_near_an_even_share() -> None:
    def cut(length: int, *candidates: list[int]) -> list[int]:
        kinds = [np.array(some, np.int64) for some in (*candidates, [], [], [], [])[:4]]
        return cut_positions(length, 100, kinds)

    assert cut(100, [50]) == []
    assert cut(150, [10, 60, 80, 140]) == [80]
    assert cut(150, [], [70], [75]) == [70], "a line end before a space"
    assert cut(150, [], [], [74]) == [74]
    assert cut(150) == [75], "no candidate: even chunks"
    assert cut(200, [60, 120]) == [60, 120], "for sentence ends a chunk more"
    assert cut(150, [3]) == [75], "too near the beginning"


def test_chunks_are_never_too_long_and_hold_everything() -> None:
    pick = random.Random(0)
    for _ in range(500):
        length, max_tokens = pick.randrange(1, 2000), pick.randrange(5, 300)
        kinds = [np.unique(pick.choices(range(1, length + 1), k=pick.randrange(1, 60))) for _ in range(3)]
        ends = [0, *cut_positions(length, max_tokens, kinds), length]
        sizes = np.diff(ends)
        assert (sizes > 0).all() and (sizes <= max_tokens).all()
        assert len(sizes) <= 2 * -(-length // max_tokens) + 1


ENGLISH = "Dr. Smith went to the big house and sat there. He did not see anyone at all! Was it late? Nobody knew it. "
TEXTS = {
    "eng_Latn": (ENGLISH * 12, (".", "!", "?")),
    "jpn_Jpan": ("日本語文字列試験。文字列試験日本語文字列「試験。」語文字列試験。" * 20, ("。", "」")),
    "hin_Deva": ("यह एक वाक्य है। और यह दूसरा वाक्य है। " * 20, ("।",)),
    "urd_Arab": ("یہ ایک جملہ ہے۔ یہ دوسرا جملہ ہے۔ " * 20, ("۔",)),
    "tha_Thai": ("ภาษาไทยไม่มีเครื่องหมาย จบประโยคแบบนี้ " * 20, ("ย", "้")),
}


@pytest.mark.parametrize("language", TEXTS)
def test_chunks_end_where_sentences_do(language: str, faithful_tokenizer: Path) -> None:
    tokenizer = load_tokenizer(faithful_tokenizer)
    text, endings = TEXTS[language]
    ids = tokenizer.encode_arrays([text])[0]
    splitter = DocumentSplitter({"eng_Latn": TrainedSplitter(abbreviations=["dr"])}, 150, tokenizer.piece_bytes)
    chunks = splitter.split(language, text, ids)
    assert len(chunks) > 4 and [chunk.start for chunk in chunks[1:]] == [chunk.stop for chunk in chunks[:-1]]
    found = [tokenizer.decode(ids[chunk.start : chunk.stop]) for chunk in chunks]
    assert "".join(found) == text
    assert [(chunk.bytes, chunk.words) for chunk in chunks] == [(len(t.encode()), len(t.split())) for t in found]
    assert all(chunk.stop - chunk.start <= 150 for chunk in chunks)
    assert all(some.endswith(endings) and not some.endswith("Dr.") for some in found[:-1]), found


def test_without_offsets_in_the_text_chunks_are_even(faithful_tokenizer: Path) -> None:
    """A tokenizer that changes text: no token's offset in it is known."""
    tokenizer = load_tokenizer(faithful_tokenizer)
    ids = tokenizer.encode_arrays([ENGLISH * 12])[0]
    chunks = DocumentSplitter({}, 150, tokenizer.piece_bytes + 2).split("eng_Latn", ENGLISH * 12, ids)
    sizes = [chunk.stop - chunk.start for chunk in chunks]
    assert len(sizes) == -(-ids.size // 150) and max(sizes) - min(sizes) <= 1
    assert sum(chunk.bytes for chunk in chunks) == len(ENGLISH * 12)
    assert all(chunk.words > 10 for chunk in chunks)
