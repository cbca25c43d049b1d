"""Cutting long documents at sentence ends: pieces of nearly equal length, none longer than a sample has room for."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.text.sentence_splitter import SentenceSplitter, TrainedSplitter

Int64s = npt.NDArray[np.int64]


class Piece(NamedTuple):
    """A part of a document: its ids from ``start`` to ``stop``, and the bytes and words of its text."""

    start: int
    stop: int
    bytes: int
    words: int


class DocumentSplitter:
    """Cuts documents of more than ``room`` ids.

    A piece ends where a sentence does, as near as possible to an even share of what is left; where no sentence ends in
    reach, at a line end, then between two words, then between two characters. The ids are those of the whole document.
    """

    def __init__(self, languages: dict[str, TrainedSplitter], room: int, piece_bytes: npt.NDArray[np.int32]) -> None:
        """``piece_bytes``: int32 [vocabulary], bytes of text that each id stands for."""
        self._languages = languages
        self._splitters: dict[str, SentenceSplitter] = {}
        self._room = room
        self._piece_bytes = piece_bytes

    def cut(self, language: str, text: str, ids: npt.NDArray[Any]) -> list[Piece]:
        """The pieces of one document, in order; it itself if it fits."""
        character_ends = np.cumsum(_utf8_sizes(text))
        size = int(character_ends[-1])
        if ids.size <= self._room:
            return [Piece(0, ids.size, size, len(text.split()))]
        token_ends = np.cumsum(self._piece_bytes[ids], dtype=np.int64)
        places = [np.zeros(0, np.int64)] * 4
        if token_ends[-1] - size in (0, 1):  # else the tokenizer changes text, and no place in it is that of a token
            token_ends -= token_ends[-1] - size  # a space put before the text
            places = [
                _tokens_at(np.array(some, np.int64), character_ends, token_ends)
                for some in (
                    self._splitter(language).ends(text),
                    _before(text, "\n"),
                    _before(text, " "),
                    range(1, len(text)),
                )
            ]
        else:
            token_ends = token_ends * size // int(token_ends[-1])
        pieces, start, begin, character = [], 0, 0, 0
        for stop in [*cut_places(ids.size, self._room, places), ids.size]:
            end = int(token_ends[stop - 1])
            next_character = int(np.searchsorted(character_ends, end, side="right"))
            words = len(text[character:next_character].split())
            pieces.append(Piece(start, stop, end - begin, words))
            start, begin, character = stop, end, next_character
        return pieces

    def _splitter(self, language: str) -> SentenceSplitter:
        if language not in self._splitters:
            self._splitters[language] = SentenceSplitter(self._languages.get(language, TrainedSplitter()))
        return self._splitters[language]


def cut_places(length: int, room: int, places: list[Int64s]) -> list[int]:
    """Where to cut ``length`` ids into pieces of at most ``room``.

    ``places``: int64 arrays, ascending, of numbers of ids before a good place; the better kinds first.
    """
    cuts: list[int] = []
    start = 0
    while length - start > room:
        left = length - start
        pieces = -(-left // room)
        target = start + left // pieces
        least = start + left - (pieces - 1) * room  # or there would be a piece more
        half = start + (target - start + 1) // 2
        # Rather a piece more than a worse place.
        tries = [(some, first) for some in places for first in (least, half)]
        for some, first in tries:
            near = some[np.searchsorted(some, max(first, start + 1)) : np.searchsorted(some, start + room, "right")]
            if near.size:
                target = int(near[np.abs(near - target).argmin()])
                break
        cuts.append(target)
        start = target
    return cuts


def _tokens_at(characters: Int64s, character_ends: Int64s, token_ends: Int64s) -> Int64s:
    """Numbers of tokens before the places ``characters``, less the places inside of a token."""
    ends = character_ends[characters - 1]
    tokens = np.searchsorted(token_ends, ends) + 1
    return tokens[token_ends[tokens - 1] == ends]


def _before(text: str, space: str) -> list[int]:
    """Places before single ``space`` characters that follow something else."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    is_space = codes == ord(space)
    return (np.flatnonzero(is_space[1:] & ~is_space[:-1]) + 1).tolist()


def _utf8_sizes(text: str) -> Int64s:
    """Bytes of each character in UTF-8."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
