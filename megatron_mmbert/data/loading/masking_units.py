"""Masking whole words or spans: which positions belong together, and choosing whole units for exactly K positions."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.settings import Bools, WordMarks
from megatron_mmbert.utils.counter_rng import U64, keyed_order
from megatron_mmbert.utils.errors import UserError

Int64s = npt.NDArray[np.int64]

MEAN_SPAN = 3.0
_SPACE = "\u2581"
# Beginnings of the Unicode names of letters whose scripts put no spaces between words.
_SPACELESS = (
    "CJK", "IDEOGRAPHIC", "HIRAGANA", "KATAKANA", "BOPOMOFO", "YI ", "THAI", "LAO", "KHMER", "MYANMAR", "TIBETAN",
    "JAVANESE", "BALINESE", "TAI ", "NEW TAI", "FULLWIDTH", "HALFWIDTH",
)  # fmt: skip


def word_marks(pieces: Sequence[str]) -> WordMarks:
    """Return the marks of a vocabulary whose pieces are spelled as SentencePiece does.

    A word begins at a vocabulary piece with the space sign; the pieces up to the next one belong to it, punctuation
    included. Where a script has no spaces that would make one word of a whole sentence: pieces with a letter of such a
    script stand alone, as do line breaks. Of a character in single bytes the first byte begins a word (most such
    characters are rare Han ones) and the others follow it.

    Raises:
        UserError: no piece says where a word begins, or spaces are at their ends.
    """
    first, last = (sum(map(at_space, pieces)) for at_space in (_begins_with_space, _ends_with_space))
    if first <= last:
        raise UserError(
            "data.masking_unit: word: the tokenizer's pieces do not say where words begin; set it to token or span"
        )
    alone = np.array([_stands_alone(piece) for piece in pieces], dtype=np.bool_)
    begins = np.array([piece.startswith(_SPACE) or _is_first_byte(piece) for piece in pieces], dtype=np.bool_)
    return WordMarks(begins | alone, alone)


def _begins_with_space(piece: str) -> bool:
    return piece.startswith(_SPACE) and piece.strip(_SPACE) != ""


def _ends_with_space(piece: str) -> bool:
    return piece.endswith(_SPACE) and piece.strip(_SPACE) != ""


def _stands_alone(piece: str) -> bool:
    return piece.isspace() or any(
        ord(letter) > 0x0E00 and unicodedata.name(letter, "").startswith(_SPACELESS) for letter in piece
    )


def _is_first_byte(piece: str) -> bool:
    """Return whether the vocabulary piece is a byte (``<0xE4>``) that begins a character."""
    is_byte = len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">")
    return is_byte and not 0x80 <= int(piece[3:5], 16) < 0xC0


def begins_word(tokens: Int64s, follows: Bools, marks: WordMarks) -> Bools:
    """Return whether each eligible position begins a word, bool [E].

    Args:
        tokens: int64 [E], ids of the eligible positions of a pack, in order.
        follows: bool [E], whether the position before is eligible too and of the same sample.
    """
    alone_before = np.concatenate([[False], marks.alone[tokens[:-1]]])
    return ~follows | marks.begins[tokens] | alone_before


def begins_span(draw: U64, follows: Bools) -> Bools:
    """Return whether each eligible position begins a span, bool [E], from uniform words ``draw`` uint64 [E].

    Beginning one with probability 1 / MEAN_SPAN at every position cuts a sample into spans of geometric length; spans
    chosen among them at random have that length too."""
    return ~follows | (draw < np.uint64(2**64 / MEAN_SPAN))


def choose_units(begins: Bools, draw: U64, scored: int) -> tuple[Bools, Int64s]:
    """Choose units in the order of their draws until they hold ``scored`` positions; the last is cut to fit.

    Args:
        begins: bool [E], whether each eligible position begins a unit; the first does.
        draw: uint64 [E]; a unit's draw is that of its first position.

    Returns:
        bool [E], chosen positions, ``scored`` of them or all; int64 [E], first position of each one's unit.
    """
    first = np.flatnonzero(begins)
    sizes = np.diff(first, append=len(begins))
    order = keyed_order(draw[first])
    before = np.cumsum(sizes[order]) - sizes[order]
    taken = np.empty_like(sizes)
    taken[order] = np.clip(scored - before, 0, sizes[order])
    first_of = np.repeat(first, sizes)
    return np.arange(len(begins)) - first_of < np.repeat(taken, sizes), first_of
