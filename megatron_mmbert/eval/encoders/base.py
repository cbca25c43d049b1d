"""An encoder as probes see it: vectors of texts and of words, and bits of texts; its subclasses compute token states.

Shape letters: N texts, W words, D width, K tokens.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from megatron_mmbert.inference.options import Pooling
from megatron_mmbert.inference.run import masked_copies

Samples = Sequence[Sequence[int]]


class Encoder(ABC):
    """A model with its tokenizer.

    Attributes:
        words_by: the library's tokenizer, which knows where in a text each token stands; None if the folder has none.
        cut: how many texts have been longer than the model takes.
    """

    max_length: int
    mask_id: int
    has_head: bool
    pooling: Pooling
    words_by: Any
    cut: int

    @abstractmethod
    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts with special tokens, cut to ``max_length``."""

    @abstractmethod
    def pooled(self, samples: Samples) -> Tensor:
        """Return one vector of each sample, fp32 [N, D] on the CPU."""

    @abstractmethod
    def states(self, samples: Samples, places: Samples) -> Tensor:
        """Return final states at ``places`` of each sample, one after the other, fp32 [K, D] on the CPU."""

    @abstractmethod
    def log_probabilities(self, samples: Samples, places: Samples, labels: Samples) -> Tensor:
        """Return the natural log-probability of each label at its place, fp64 [K] on the CPU."""

    def text_vectors(self, texts: Sequence[str]) -> np.ndarray:
        """Return vectors of texts, fp32 [N, D]."""
        return self.pooled(self.ids(texts)).numpy()

    def word_vectors(self, sentences: Sequence[Sequence[str]], joins: Sequence[str | None]) -> np.ndarray:
        """Return vectors of all words, fp32 [W, 2D]: the states of a word's first and last token; 0 where it has none.

        Args:
            joins: of each sentence what stands between its words in running text; None: every word is tokenized alone
                and without a space before it, as scripts that pass lists of words to a tokenizer do.
        """
        samples, places = [], []
        for words, join in zip(sentences, joins, strict=True):
            ids, spans = word_spans(self.words_by, words, join)
            if len(ids) > self.max_length:
                self.cut += 1
                ids = [*ids[: self.max_length - 1], ids[-1]]
            samples.append(ids)
            places.append([span if span and span[1] < self.max_length - 1 else None for span in spans])
        wanted = [[place for span in spans if span for place in span] for spans in places]
        states_KD = self.states(samples, wanted).numpy()
        out = np.zeros((sum(map(len, places)), 2 * states_KD.shape[1]), dtype=np.float32)
        there = [span is not None for spans in places for span in spans]
        out[there] = states_KD.reshape(-1, out.shape[1])
        return out

    def bits(self, texts: Sequence[str]) -> np.ndarray:
        """Return the bits of each text, fp64 [N]: every token masked once, together with every seventh other."""
        samples = self.ids(texts)
        copies, owners, places = masked_copies(samples, self.mask_id)
        labels = [[samples[owner][place] for place in each] for owner, each in zip(owners, places, strict=True)]
        found_K = self.log_probabilities(copies, places, labels)
        owner_K = torch.tensor([owner for owner, each in zip(owners, places, strict=True) for _ in each])
        out_N = torch.zeros(len(samples), dtype=torch.float64)
        out_N.index_add_(0, owner_K.long(), found_K.double())
        return (-out_N / math.log(2)).numpy()


def word_spans(
    tokenizer: Any, words: Sequence[str], join: str | None
) -> tuple[list[int], list[tuple[int, int] | None]]:
    """Return the ids of a sentence with special tokens, and first and last place of each word's tokens in them.

    A word is found by its characters' places in the running text: whatever a vocabulary makes of spaces, a token
    belongs to the words that it overlaps.
    """
    if join is None:
        encoded = tokenizer.encode(list(words), is_pretokenized=True)
        owners = [[] if word is None else [word] for word in encoded.word_ids]
    else:
        text, bounds = _joined(words, join)
        encoded = tokenizer.encode(text)
        owners = _owners(encoded.offsets, encoded.special_tokens_mask, bounds)
    spans: list[tuple[int, int] | None] = [None] * len(words)
    for place, each in enumerate(owners):
        for word in each:
            first = spans[word]
            spans[word] = (first[0] if first else place, place)
    return list(encoded.ids), spans


def _joined(words: Sequence[str], join: str) -> tuple[str, list[tuple[int, int]]]:
    """Return the running text, with a separator before its first word too, and where each word stands in it."""
    text, bounds = "", []
    for word in words:
        text += join
        bounds.append((len(text), len(text) + len(word)))
        text += word
    return text, bounds


def _owners(
    offsets: Sequence[tuple[int, int]], special: Sequence[int], bounds: Sequence[tuple[int, int]]
) -> list[list[int]]:
    """Return the words that each token overlaps; tokens and words come in the text's order."""
    owners: list[list[int]] = []
    first = 0
    for (start, end), is_special in zip(offsets, special, strict=True):
        while first < len(bounds) and bounds[first][1] <= start:
            first += 1
        found, word = [], first
        while not is_special and word < len(bounds) and bounds[word][0] < end:
            if bounds[word][1] > start:
                found.append(word)
            word += 1
        owners.append(found)
    return owners
