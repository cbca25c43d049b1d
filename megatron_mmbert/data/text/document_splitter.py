"""Cutting long documents at sentence ends into chunks of nearly equal length, each short enough for one sample."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.text.sentence_splitter import SentenceSplitter, TrainedSplitter

Int64s = npt.NDArray[np.int64]


class DocumentChunk(NamedTuple):
    """A part of a document: its ids from ``start`` to ``stop``, and the bytes and words of its text."""

    start: int
    stop: int
    bytes: int
    words: int


class DocumentSplitter:
    """Cuts documents of more than ``max_tokens`` ids.

    A chunk ends where a sentence does, as near as possible to an even share of what is left; where no sentence ends in
    reach, at a line end, then between two words, then between two characters. The ids are those of the whole document.
    """

    def __init__(
        self, languages: dict[str, TrainedSplitter], max_tokens: int, piece_bytes: npt.NDArray[np.int32]
    ) -> None:
        """``piece_bytes``: int32 [vocabulary], bytes of text that each id stands for."""
        if max_tokens < 1:
            raise ValueError(f"max_tokens {max_tokens}: a chunk holds one token at least")
        self._languages = languages
        self._splitters: dict[str, SentenceSplitter] = {}
        self._max_tokens = max_tokens
        self._piece_bytes = piece_bytes

    def split(self, language: str, text: str, ids: npt.NDArray[Any]) -> list[DocumentChunk]:
        """Return the chunks of one document, in order; a single one if it fits."""
        character_ends = np.cumsum(_utf8_sizes(text))
        size = int(character_ends[-1])
        if ids.size <= self._max_tokens:
            return [DocumentChunk(0, ids.size, size, len(text.split()))]
        token_ends = np.cumsum(self._piece_bytes[ids], dtype=np.int64)
        candidates = [np.zeros(0, np.int64)] * 4
        if token_ends[-1] - size in (0, 1):  # else the tokenizer changes text, and no token's end is known in it
            token_ends -= token_ends[-1] - size  # a space put before the text
            candidates = [
                _tokens_before(np.array(offsets, np.int64), character_ends, token_ends)
                for offsets in (
                    self._splitter(language).ends(text),
                    _offsets_before(text, "\n"),
                    _offsets_before(text, " "),
                    range(1, len(text)),
                )
            ]
        else:
            token_ends = token_ends * size // int(token_ends[-1])
        chunks, start, begin, character = [], 0, 0, 0
        for stop in [*cut_positions(ids.size, self._max_tokens, candidates), ids.size]:
            end = int(token_ends[stop - 1])
            next_character = int(np.searchsorted(character_ends, end, side="right"))
            words = len(text[character:next_character].split())
            chunks.append(DocumentChunk(start, stop, end - begin, words))
            start, begin, character = stop, end, next_character
        return chunks

    def _splitter(self, language: str) -> SentenceSplitter:
        if language not in self._splitters:
            self._splitters[language] = SentenceSplitter(self._languages.get(language, TrainedSplitter()))
        return self._splitters[language]


def cut_positions(length: int, max_tokens: int, candidates: list[Int64s]) -> list[int]:
    """Return the positions that cut ``length`` ids into chunks of at most ``max_tokens``, ascending.

    ``candidates``: int64 arrays, ascending, of good positions (ids before them); the better kinds first.
    """
    cuts: list[int] = []
    start = 0
    while length - start > max_tokens:
        left = length - start
        chunks = -(-left // max_tokens)
        target = start + left // chunks
        min_cut = start + left - (chunks - 1) * max_tokens  # an earlier cut needs a chunk more
        half = start + (target - start + 1) // 2
        # Rather a chunk more than a worse kind of position.
        tries = [(positions, first) for positions in candidates for first in (min_cut, half)]
        for positions, first in tries:
            low = np.searchsorted(positions, max(first, start + 1))
            near = positions[low : np.searchsorted(positions, start + max_tokens, "right")]
            if near.size:
                target = int(near[np.abs(near - target).argmin()])
                break
        cuts.append(target)
        start = target
    return cuts


def _tokens_before(characters: Int64s, character_ends: Int64s, token_ends: Int64s) -> Int64s:
    """Return the number of tokens before each offset in ``characters``, less the offsets inside of a token."""
    ends = character_ends[characters - 1]
    tokens = np.searchsorted(token_ends, ends) + 1
    return tokens[token_ends[tokens - 1] == ends]


def _offsets_before(text: str, space: str) -> list[int]:
    """Return the offsets of ``space`` characters that follow something else."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    is_space = codes == ord(space)
    return (np.flatnonzero(is_space[1:] & ~is_space[:-1]) + 1).tolist()


def _utf8_sizes(text: str) -> Int64s:
    """Return the bytes of each character in UTF-8."""
    codes = np.frombuffer(text.encode("utf-32-le"), "<u4")
    return 1 + (codes > 0x7F).astype(np.int64) + (codes > 0x7FF) + (codes > 0xFFFF)
