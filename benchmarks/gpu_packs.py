"""Synthetic packs for the GPU's benchmarks: no corpus is needed, and every model sees the same samples.

Ids follow Zipf's law; every second one is a function of the one before it four times in five, so that there is
something to learn. Lengths are those of documents (log-normal, median 540 tokens, cut like the loader's into pieces of
nearly equal length), or all the longest there may be, which is the hardest case for attention.
"""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import torch
from mlm_samples import IGNORED, Sample

from megatron_mmbert.data.loading.batch import PackedBatch

FIRST_WORD = 5  # ids below it are special; 4 is <mask>
MASK = 4
_SHORTEST = 8


def lengths_of_pack(rng: np.random.Generator, tokens: int, longest: int, full: bool) -> list[int]:
    """Lengths of samples that fill ``tokens`` tokens exactly."""
    if full:
        return [longest] * (tokens // longest) + ([tokens % longest] if tokens % longest else [])
    lengths: list[int] = []
    left = tokens
    while left:
        document = int(np.clip(rng.lognormal(6.3, 1.1), _SHORTEST, 20 * longest))
        number = -(-document // longest)
        for piece in range(number):
            length = min(left, document * (piece + 1) // number - document * piece // number)
            if length:
                lengths.append(length)
            left -= length
    return lengths


def sample(rng: np.random.Generator, length: int, vocabulary: int, ratio: float) -> Sample:
    """One masked sample: 80 % of the scored places ``<mask>``, 10 % random, 10 % as they were."""
    words = vocabulary - FIRST_WORD
    ids = FIRST_WORD + np.floor(words ** rng.random(length)).astype(np.int64) - 1
    pairs = length // 2
    follows = rng.random(pairs) < 0.8
    first = ids[: 2 * pairs : 2]
    ids[1 : 2 * pairs : 2] = np.where(follows, FIRST_WORD + first * 7919 % words, ids[1 : 2 * pairs : 2])
    places = rng.permutation(length)[: max(1, round(ratio * length))]
    labels = np.full(length, IGNORED, dtype=np.int64)
    labels[places] = ids[places]
    draw = rng.random(len(places))
    ids[places[draw < 0.8]] = MASK
    noisy = places[(draw >= 0.8) & (draw < 0.9)]
    ids[noisy] = rng.integers(FIRST_WORD, vocabulary, len(noisy))
    return Sample(ids, labels)


def samples_of_pack(
    seed: int, tokens: int, longest: int, vocabulary: int, ratio: float, full: bool = False
) -> list[Sample]:
    """The samples of one pack, a function of ``seed``."""
    rng = np.random.default_rng(seed)
    return [sample(rng, length, vocabulary, ratio) for length in lengths_of_pack(rng, tokens, longest, full)]


def packed(samples: list[Sample], number: int, scored: int) -> PackedBatch:
    """The pack as the trainer takes it.

    Args:
        scored: K; a place that is left out of it keeps what it was masked with, one that is lacking counts nothing.
    """
    bounds = np.array([0, *itertools.accumulate(map(len, samples))], dtype=np.int32)
    labels = np.concatenate([each.labels for each in samples])
    places: npt.NDArray[np.int64] = np.flatnonzero(labels != IGNORED)[:scored]
    filled = np.concatenate([places, np.zeros(scored - len(places), dtype=np.int64)])
    label_K = np.where(np.arange(scored) < len(places), labels[filled], IGNORED)
    position = np.concatenate([np.arange(len(each)) for each in samples])
    return PackedBatch(
        tokens_T=torch.from_numpy(np.concatenate([each.ids for each in samples])),
        position_T=torch.from_numpy(position),
        cu_seqlens=torch.from_numpy(bounds),
        max_seqlen=max(map(len, samples)),
        masked_index_K=torch.from_numpy(filled),
        label_K=torch.from_numpy(label_K),
        dataset_S=torch.zeros(len(samples), dtype=torch.int32),
        real_tokens=int(bounds[-1]),
        pack_indices=(number,),
    )
