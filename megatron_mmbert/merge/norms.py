"""Norms and inner products of large tensors, accumulated in float64 without a float64 copy of the whole."""

from __future__ import annotations

import math

from torch import Tensor

CHUNK = 1 << 22


def inner_product(a: Tensor, b: Tensor) -> float:
    """Σ a·b over all entries of two tensors of equal shape."""
    pairs = zip(a.flatten().split(CHUNK), b.flatten().split(CHUNK), strict=True)
    return sum(float(x.double() @ y.double()) for x, y in pairs)


def norm(a: Tensor) -> float:
    """The Euclidean norm over all entries."""
    return math.sqrt(inner_product(a, a))
