"""TIES merging (Yadav et al. 2023, arXiv 2306.01708, section 4): trim, elect sign, disjoint mean.

All arithmetic is float32, per tensor, on any shape S, on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from megatron_mmbert.config.merge import MergeOptions

CHUNK = 1 << 18  # entries worked on at a time, so that temporaries stay in the cache


def kept_count(density: float, numel: int) -> int:
    """Return the number of entries that trimming keeps: density · numel rounded (a half up), and at least one."""
    return min(numel, max(1, math.floor(density * numel + 0.5)))


def trim(delta: Tensor, density: float) -> Tensor:
    """Return ``delta`` with all but its ``kept_count`` largest magnitudes set to 0.

    Exactly that many are kept: among equal magnitudes at the threshold those with the lower flat index stay.
    """
    keep = kept_count(density, delta.numel())
    if delta.numel() == 0 or keep == delta.numel():
        return delta.clone()
    magnitude = delta.abs().flatten()
    # NumPy's introselect is linear in time and needs no index array, unlike torch.kthvalue and torch.topk.
    rank = magnitude.numel() - keep
    threshold = float(np.partition(magnitude.numpy(), rank)[rank])
    if threshold == 0.0:  # Fewer entries than `keep` differ from 0, so nothing is to be dropped.
        return delta.clone()
    kept = magnitude > threshold
    at_threshold = (magnitude == threshold).nonzero().flatten()
    kept[at_threshold[: keep - int(kept.sum())]] = True
    return delta * kept.view(delta.shape)


def trimmed_deltas(base: Tensor, models: Sequence[Tensor], density: float) -> list[Tensor]:
    """Return the trimmed task vectors model − base, float32 [S] each."""
    return [trim(model.float() - base.float(), density) for model in models]


def elect_and_average(trimmed: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return the merged task vector, float32: per entry, the weighted mean of the models that have the elected sign.

    The elected sign is that of the weighted sum of the trimmed task vectors. Where the sum is exactly 0 nothing is
    elected and the result is 0. A trimmed entry (0) agrees with no sign, so it does not dilute the mean.
    """
    merged = torch.empty_like(trimmed[0], memory_format=torch.contiguous_format)
    for out, *deltas in zip(*(tensor.flatten().split(CHUNK) for tensor in (merged, *trimmed)), strict=True):
        total = torch.zeros_like(out)
        for delta, weight in zip(deltas, weights, strict=True):
            total.add_(delta, alpha=weight)
        elected = total.sign()
        total.zero_()
        mass = torch.zeros_like(out)
        for delta, weight in zip(deltas, weights, strict=True):
            agrees = delta.sign() == elected
            total.add_(delta * agrees, alpha=weight)
            mass.add_(agrees, alpha=weight)
        out.copy_(torch.where(mass > 0, total / mass, 0.0))
    return merged


def sign_conflict_share(deltas: Sequence[Tensor]) -> float:
    """Return the share of entries with deltas of both signs among those where any delta is not 0; 0 if none is."""
    moved, conflicts = 0, 0
    for chunks in zip(*(delta.flatten().split(CHUNK) for delta in deltas), strict=True):
        positive = torch.zeros_like(chunks[0], dtype=torch.bool)
        negative = torch.zeros_like(positive)
        for chunk in chunks:
            positive |= chunk > 0
            negative |= chunk < 0
        moved += int((positive | negative).sum())
        conflicts += int((positive & negative).sum())
    return conflicts / moved if moved else 0.0


def ties(base: Tensor, models: Sequence[Tensor], options: MergeOptions) -> tuple[Tensor, float]:
    """Return base + lambda · merged task vector, float32 [S], and the share of sign conflicts after trimming."""
    trimmed = trimmed_deltas(base, models, options.density)
    merged = elect_and_average(trimmed, options.weights_for(len(models)))
    return merged.mul_(options.scale).add_(base.float()), sign_conflict_share(trimmed)
