"""Encoding with a cache of words: the ids SentencePiece gives, without computing most of them again.

A BPE encoder merges neighbouring pieces while the vocabulary has the result. Where no piece of the vocabulary reaches
from a letter into the white space after it, no merge ever crosses that boundary, and a text's ids are those of its
segments end to end, a segment being a word with the white space before it. Most words of a text have been seen before.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.tokenizer.sentencepiece_proto import BPE, Kind
from megatron_mmbert.tokenizer.whitespace import RULE_NAME, SPACE

_MAX_WORD_CHARACTERS = 32
_MAX_WORDS = 1 << 17
_SEGMENT = re.compile(r"[ \n]*[^ \n]+|[ \n]+")
_CROSSES = re.compile(f"[^{SPACE}\n][{SPACE}\n]")
_TEXT_KINDS = (Kind.NORMAL, Kind.USER_DEFINED, Kind.UNUSED)


def has_separate_words(proto: Any) -> bool:
    """Tell if a SentencePiece model gives a text the ids of its words."""
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    keeps_text = not normalizer.precompiled_charsmap or normalizer.name == RULE_NAME
    plain = trainer.model_type == BPE and trainer.byte_fallback and not trainer.treat_whitespace_as_suffix
    adds = normalizer.add_dummy_prefix or normalizer.remove_extra_whitespaces or not normalizer.escape_whitespaces
    if not (keeps_text and plain) or adds:
        return False
    return not any(_CROSSES.search(piece.piece) for piece in proto.pieces if piece.type in _TEXT_KINDS)


class WordCache:
    """Turns texts into ids for a model that :func:`has_separate_words`.

    Remembers about two times ``_MAX_WORDS`` words, the ones met last, of at most ``_MAX_WORD_CHARACTERS``: some 50 MB.
    """

    def __init__(self, encode_all: Callable[[list[str]], list[list[int]]]) -> None:
        """``encode_all``: ids of each of many texts."""
        self._segments = _Words(encode_all, lambda word: word)
        self._after_space = _Words(encode_all, lambda word: word if word.startswith("\n") else " " + word)

    def encode(self, texts: Iterable[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text, int32 [tokens], read-only."""
        cut = [self._cut(text) for text in texts]
        segments = self._segments.look_up(first for first, _ in cut)
        after_space = self._after_space.look_up(words for _, words in cut)
        return [
            np.frombuffer(b"".join([*map(segments.__getitem__, first), *map(after_space.__getitem__, words)]), np.int32)
            for first, words in cut
        ]

    @staticmethod
    def _cut(text: str) -> tuple[list[str], list[str]]:
        """Return the text as segments, and further ones less the single space that each but a line end begins with."""
        if "  " in text or " \n" in text or "\n " in text:
            return _SEGMENT.findall(text), []
        # Splitting at single spaces is several times faster than the expression.
        if "\n" in text:
            text = text.replace("\n", " \n")
            while "\n \n" in text:
                text = text.replace("\n \n", "\n\n")
        first, *words = text.split(" ")
        return [first], words


class _Words:
    """Word to ids, as the bytes of an int32 array. Full, it becomes the old half, from which words met again return."""

    def __init__(self, encode_all: Callable[[list[str]], list[list[int]]], segment_of: Callable[[str], str]) -> None:
        self._encode_all = encode_all
        self._segment_of = segment_of
        self._new: dict[str, bytes] = {}
        self._old: dict[str, bytes] = {}
        self._long: list[str] = []  # too rare to be kept

    def look_up(self, lists: Iterable[list[str]]) -> dict[str, bytes]:
        """Return the ids of all words in ``lists``, and of others; good until the next call."""
        for word in self._long:
            del self._new[word]
        if len(self._new) > _MAX_WORDS:
            self._old, self._new = self._new, {}
        wanted: set[str] = set().union(*lists) - self._new.keys()
        again = {word: self._old[word] for word in wanted & self._old.keys()}
        unknown = list(wanted - again.keys())
        ids = self._encode_all([self._segment_of(word) for word in unknown])
        self._new.update(again)
        self._new.update(zip(unknown, (array("i", some).tobytes() for some in ids), strict=True))
        self._long = [word for word in unknown if len(word) > _MAX_WORD_CHARACTERS]
        return self._new
