"""The residual sum x + branch, on a CPU in the memory of the branch.

The branch is the output of a linear layer or of dropout, which no backward pass reads, so the sum may overwrite it: a
layer takes two tensors of [T, D] less, and the sum is one pass over memory that writes to what it has just read. On a
GPU, where memory is handed out without clearing it, it is torch's plain sum.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def in_place_sum(branch: Tensor, x: Tensor) -> Tensor:
    """Return ``x + branch``; on a CPU ``branch`` is overwritten by it and must not be read any more."""
    return x + branch if branch.is_cuda else _SumInto.apply(branch, x)


class _SumInto(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, branch: Tensor, x: Tensor) -> Tensor:
        return branch.data.add_(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        return grad, grad
