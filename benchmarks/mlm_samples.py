"""Real documents as masked samples, the same for every model that a benchmark compares."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.text.documents import find_inputs, read_documents
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.errors import UserError

IGNORED = -100


@dataclass(frozen=True)
class Sample:
    """One masked sample: int64 ids after masking, and labels, :data:`IGNORED` where nothing is scored."""

    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ids)


def texts_of(corpus: Path, count: int, seed: int = 0) -> list[str]:
    """``count`` documents drawn evenly over all files of ``corpus``."""
    files = find_inputs([corpus])
    texts = [document.text for file in files for document in read_documents(file)]
    if len(texts) < count:
        raise UserError(f"{corpus}: only {len(texts)} documents, {count} are needed; give a larger --corpus")
    return [texts[i] for i in np.random.default_rng(seed).choice(len(texts), count, replace=False)]


def representative(samples: list[list[int]], count: int) -> list[list[int]]:
    """``count`` samples at even steps through the samples sorted by length, so that few stand for all."""
    ordered = sorted(samples, key=len)
    return [ordered[int((place + 0.5) * len(ordered) / count)] for place in range(count)]


def pieces(ids: list[int], longest: int, tokenizer: Tokenizer) -> list[list[int]]:
    """``<bos> ids <eos>`` in pieces of at most ``longest`` tokens that differ by at most one."""
    number = max(1, -(-len(ids) // (longest - 2)))
    cuts = [len(ids) * place // number for place in range(number + 1)]
    return [[tokenizer.bos_id, *ids[a:b], tokenizer.eos_id] for a, b in itertools.pairwise(cuts)]


def masked(ids: list[int], ratio: float, tokenizer: Tokenizer, rng: np.random.Generator) -> Sample:
    """80 % ``<mask>``, 10 % random, 10 % unchanged, on round(ratio * length) places that are no special tokens."""
    original = np.asarray(ids, dtype=np.int64)
    places = rng.permutation(np.arange(1, len(ids) - 1))[: max(1, round(ratio * len(ids)))]
    corrupted, labels = original.copy(), np.full(len(ids), IGNORED, dtype=np.int64)
    labels[places] = original[places]
    draw = rng.random(len(places))
    corrupted[places[draw < 0.8]] = tokenizer.mask_id
    noisy = places[(draw >= 0.8) & (draw < 0.9)]
    corrupted[noisy] = rng.integers(tokenizer.vocab_size, size=len(noisy))
    return Sample(corrupted, labels)


def save_samples(path: Path, samples: list[Sample]) -> None:
    """One .npz for the measuring processes."""
    ends = np.cumsum([len(sample) for sample in samples])
    joined = {name: np.concatenate([getattr(sample, name) for sample in samples]) for name in ("ids", "labels")}
    np.savez(path, ends=ends, **joined)


def load_samples(path: Path) -> list[Sample]:
    with np.load(path, allow_pickle=False) as file:
        cuts = file["ends"][:-1]
        parts = zip(np.split(file["ids"], cuts), np.split(file["labels"], cuts), strict=True)
        return [Sample(ids, labels) for ids, labels in parts]
