"""The merge methods: each merges one tensor of all models, in float32 whatever their precision.

A new method is a function here with its entry in :data:`FUNCTIONS`, and its rules in ``config/merge.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from megatron_mmbert.config.merge import MergeOptions
from megatron_mmbert.merge.ties import ties

CHUNK = 1 << 22  # entries of which a float64 copy is made at a time
NEARLY_PARALLEL = 0.9995  # |cos| above which sin(theta) is too small to divide by


class Merged(NamedTuple):
    """A merged tensor, float32, and TIES's share of sign conflicts (None for the other methods)."""

    tensor: Tensor
    sign_conflict_share: float | None = None


def linear(models: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Return Σ w_i·model_i / Σ w_i in float32, any shape (model soup, Wortsman et al. 2022, arXiv 2203.05482)."""
    total = sum(weights)
    merged = torch.zeros_like(models[0], dtype=torch.float32)
    for model, weight in zip(models, weights, strict=True):
        merged.add_(model.float(), alpha=weight / total)
    return merged


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """Return sin((1−t)θ)/sin θ · first + sin(tθ)/sin θ · second in float32, θ the angle between the flattened tensors.

    Spherical interpolation (Shoemake 1985, "Animating rotation with quaternion curves"). Two tensors of equal norm give
    that norm at every ``t``. Nearly parallel, nearly opposite or zero tensors have no well-defined arc and are
    interpolated linearly.
    """
    lengths = norm(first) * norm(second)
    cosine = inner_product(first, second) / lengths if lengths > 0 else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return linear([first, second], [1.0 - t, t])
    theta = math.acos(cosine)
    merged = first.float() * (math.sin((1.0 - t) * theta) / math.sin(theta))
    return merged.add_(second.float(), alpha=math.sin(t * theta) / math.sin(theta))


def task_arithmetic(base: Tensor, models: Sequence[Tensor], weights: Sequence[float], scale: float) -> Tensor:
    """Return base + lambda · Σ w_i·(model_i − base) in float32, any shape; weights are NOT divided by their sum.

    The SUM of the task vectors, scaled (Ilharco et al. 2022, arXiv 2212.04089, section 2).
    """
    start = base.float()
    merged = start.clone()
    for model, weight in zip(models, weights, strict=True):
        merged.add_(model.float() - start, alpha=scale * weight)
    return merged


def ema_weights(count: int, decay: float) -> tuple[float, ...]:
    """Return the weights of ``count`` checkpoints, OLDEST first: decay^(count−1), …, decay, 1, divided by their sum.

    The exponentially weighted mix of checkpoints of one run, as mmBERT-small was made from several of Decay-All.
    """
    raw = [decay ** (count - 1 - index) for index in range(count)]
    return tuple(weight / sum(raw) for weight in raw)


FUNCTIONS: dict[str, Callable[[Any, Sequence[Tensor], MergeOptions], Merged]] = {
    "ties": lambda base, models, options: Merged(*ties(base, models, options)),
    "linear": lambda base, models, options: Merged(linear(models, options.weights_for(len(models)))),
    "slerp": lambda base, models, options: Merged(slerp(models[0], models[1], options.t)),
    "task_arithmetic": lambda base, models, options: Merged(
        task_arithmetic(base, models, options.weights_for(len(models)), options.scale)
    ),
    "ema": lambda base, models, options: Merged(linear(models, ema_weights(len(models), options.ema_decay))),
}
"""By the names of :data:`megatron_mmbert.config.merge.METHODS`; the base is a tensor where they need one."""


def merge_tensor(method: str, base: Tensor | None, models: Sequence[Tensor], options: MergeOptions) -> Merged:
    """Merge one tensor of all models.

    Args:
        base: the tensor that all models started from; read by ``ties`` and ``task_arithmetic`` only.
        models: the same tensor of each model, equal shapes; oldest first for ``ema``.
        options: checked by :func:`megatron_mmbert.config.merge.check_merge`.
    """
    return FUNCTIONS[method](base, models, options)


def inner_product(a: Tensor, b: Tensor) -> float:
    """Return Σ a·b over all entries of two tensors of equal shape, in float64 without a float64 copy of the whole."""
    pairs = zip(a.flatten().split(CHUNK), b.flatten().split(CHUNK), strict=True)
    return sum(float(x.double() @ y.double()) for x, y in pairs)


def norm(a: Tensor) -> float:
    """Return the Euclidean norm over all entries."""
    return math.sqrt(inner_product(a, a))
