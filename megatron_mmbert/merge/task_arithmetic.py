"""Task arithmetic (Ilharco et al. 2022, arXiv 2212.04089, section 2): the SUM of the task vectors, scaled."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor


def task_arithmetic(base: Tensor, models: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    """base + lambda · Σ w_i·(model_i − base) in float32, any shape; the weights are NOT divided by their sum."""
    start = base.float()
    merged = start.clone()
    for model, weight in zip(models, weights, strict=True):
        merged.add_(model.float() - start, alpha=scale * weight)
    return merged
