"""Exponentially weighted mix of checkpoints of one run, as mmBERT-small was made from several of Decay-All."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from megatron_mmbert.merge.linear import linear


def ema_weights(count: int, decay: float) -> tuple[float, ...]:
    """Weights of ``count`` checkpoints, OLDEST first: decay^(count−1), …, decay, 1, divided by their sum."""
    raw = [decay ** (count - 1 - index) for index in range(count)]
    return tuple(weight / sum(raw) for weight in raw)


def ema(models: Sequence[Tensor], decay: float) -> Tensor:
    """The mix in float32 of ``models`` given oldest first, any shape."""
    return linear(models, ema_weights(len(models), decay))
