"""The one check that tensors are finite, where they are read and where they are written."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from megatron_mmbert.utils.errors import UserError


def is_finite(tensor: Tensor) -> bool:
    """Return whether no value is NaN or infinite, in one pass and without a copy.

    A sum is finite only if all of its terms are. One that overflowed says nothing, so the extremes are looked at.
    """
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    if tensor.element_size() == 1:  # FP8: no arithmetic of its own
        tensor = tensor.float()
    held = tensor.detach()
    return math.isfinite(float(held.sum())) or all(math.isfinite(float(end)) for end in torch.aminmax(held))


def finite_problem(tensor: Tensor, name: str) -> str | None:
    """Return what is wrong with a tensor that is not finite; None for one that is."""
    if is_finite(tensor):
        return None
    bad = tensor.numel() - int(torch.isfinite(tensor.float()).sum())
    return f"tensor {name!r} has {bad:,} values that are not finite (NaN or infinity)"


def check_finite(tensor: Tensor, name: str, path: Path, remedy: str = "take another one") -> Tensor:
    """Return a tensor that was read from ``path`` or is about to be written there.

    Raises:
        UserError: it has values that are not finite.
    """
    if problem := finite_problem(tensor, name):
        raise UserError(f"{path}: {problem}; {remedy}")
    return tensor
