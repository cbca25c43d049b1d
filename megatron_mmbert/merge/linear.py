"""Weighted mean of models (model soup, Wortsman et al. 2022, arXiv 2203.05482), and of checkpoints over time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Σ w_i·model_i / Σ w_i in float32, any shape."""
    total = sum(weights)
    merged = torch.zeros_like(models[0], dtype=torch.float32)
    for model, weight in zip(models, weights, strict=True):
        merged.add_(model.float(), alpha=weight / total)
    return merged
