"""White space survives, also for a reader that knows nothing but the SentencePiece library."""

from __future__ import annotations

import pytest
import sentencepiece
from support.tokenizer_samples import HOSTILE, TEXTS

from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.tokenizer.special_tokens import MODEL_FILE
from megatron_mmbert.tokenizer.whitespace import whitespace_pieces


@pytest.mark.parametrize("text", HOSTILE)
def test_round_trip_is_exact(text: str, trained: Tokenizer, prefixed: Tokenizer) -> None:
    for tokenizer in (trained, prefixed):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_round_trip_with_the_library_alone(trained: Tokenizer) -> None:
    processor = sentencepiece.SentencePieceProcessor(model_file=str(trained.path / MODEL_FILE))
    for text in [*HOSTILE, *(text for texts in TEXTS.values() for text in texts)]:
        assert processor.decode(processor.encode(text)) == text
        assert processor.encode(text) == trained.encode(text)


def test_round_trip_of_real_documents(trained: Tokenizer, real_documents: list[str]) -> None:
    for text in real_documents:
        assert trained.decode(trained.encode(text)) == text


@pytest.mark.parametrize("character", ["\n", " ", "\t"])
@pytest.mark.parametrize("length", [2, 6, 8, 14, 16, 30, 64])
def test_a_run_is_spelled_by_the_fewest_pieces(character: str, length: int, trained: Tokenizer) -> None:
    # Even lengths: the last space of an odd run belongs to the word behind it.
    assert len(trained.encode(character * length)) == length // 16 + (length % 16).bit_count()


def test_white_space_pieces_lie_behind_the_special_ones(trained: Tokenizer) -> None:
    pieces = list(whitespace_pieces())
    assert [trained.piece(i) for i in range(5, 5 + len(pieces))] == pieces


def test_no_piece_joins_a_line_end_or_a_tab_with_something_else(trained: Tokenizer) -> None:
    pieces = [trained.piece(i) for i in range(trained.vocab_size)]
    assert not [piece for piece in pieces if set(piece) & set("\n\t") and len(set(piece)) > 1]
