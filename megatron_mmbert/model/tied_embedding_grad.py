"""One gradient for the tied token table: the decoder's, to which the lookup adds its few rows in place.

Left to autograd, the lookup makes a second gradient as large as the table, mostly zeros, and both are added: with
256,000 words that is the largest tensor of a step, and three passes over it.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedEmbeddingGrad:
    """Carries the decoder's gradient of the table to the lookup of the same forward pass, whose backward is later: the
    decoder's input depends on what was looked up."""

    def __init__(self) -> None:
        self._held_VD: Tensor | None = None

    def leave(self, grad_VD: Tensor) -> None:
        self._held_VD = grad_VD

    def take(self) -> Tensor | None:
        """What was left, once; None where there is nothing."""
        held_VD, self._held_VD = self._held_VD, None
        return held_VD


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table_VD: Tensor, tokens_T: Tensor, carried: TiedEmbeddingGrad) -> Tensor:
        ctx.save_for_backward(tokens_T)
        ctx.carried, ctx.shape = carried, table_VD.shape
        return F.embedding(tokens_T, table_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (tokens_T,) = ctx.saved_tensors
        grad_VD = ctx.carried.take()
        if grad_VD is None:
            grad_VD = grad_TD.new_zeros(ctx.shape)
        return grad_VD.index_add_(0, tokens_T, grad_TD.to(grad_VD.dtype)), None, None


def look_up(table_VD: Tensor, tokens_T: Tensor, carried: TiedEmbeddingGrad) -> Tensor:
    """Rows [T, D] of the table; their gradient is added to what the decoder leaves in ``carried``."""
    return _Lookup.apply(table_VD, tokens_T, carried)
