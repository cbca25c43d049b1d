"""Synthetic packs, and digests of batches."""

from __future__ import annotations

import hashlib

import numpy as np

from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.utils.counter_rng import hash64
from support.synthetic_source import IDS, VOCAB

TEXT = np.array(sorted(set(range(VOCAB)) - IDS.specials))


def pack(samples: int = 40, length: int = 100, pad: int = 96, first: int = 0) -> tuple[np.ndarray, ...]:
    """Return (tokens, sample key, position), each [T], of samples <bos> ... <eos> and a pad tail."""
    rng = np.random.default_rng(first)
    rows = TEXT[rng.integers(0, len(TEXT), (samples, length))]
    rows[:, 0], rows[:, -1] = IDS.bos, IDS.eos
    tokens = np.concatenate([rows.ravel(), np.full(pad, IDS.pad)])
    key = np.concatenate([np.repeat(hash64(5, np.arange(first, first + samples)), length), np.zeros(pad, np.uint64)])
    position = np.concatenate([np.tile(np.arange(length), samples), np.arange(pad)])
    return tokens, key, position


def within(count: int, trials: int, probability: float) -> bool:
    """Return whether ``count`` is within five standard deviations of the binomial distribution."""
    return abs(count - trials * probability) <= 5 * np.sqrt(trials * probability * (1 - probability))


def digest(batch: PackedBatch) -> str:
    """Return the digest of all that a batch holds."""
    parts = (batch.tokens_T, batch.position_T, batch.cu_seqlens, batch.masked_index_K, batch.label_K, batch.dataset_S)
    content = b"".join(part.numpy().tobytes() for part in parts)
    return hashlib.sha256(
        content + repr((batch.max_seqlen, batch.real_tokens, batch.pack_indices[0])).encode()
    ).hexdigest()


def digests(batches: list[PackedBatch]) -> list[str]:
    return [digest(batch) for batch in batches]
