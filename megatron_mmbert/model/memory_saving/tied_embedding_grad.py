"""The tied embedding gradient: decoder and lookup write into one gradient of the word embedding.

Left to autograd, the lookup makes a second gradient as large as the word embedding, mostly zeros, and both are added:
with 256,000 words that is the largest tensor of a step, and three passes over it. Here the decoder's backward pass
leaves its gradient in a :class:`TiedEmbeddingGrad`, and the lookup's, which comes later, adds its few rows in place::

    forward    tokens -> look_up ---> layers ---> decoder -> loss
    backward             look_up <--- layers <--- decoder
                            ^                        |
                            +--- TiedEmbeddingGrad <-+      gives V x D to the parameter, the decoder gives none
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


class TiedEmbeddingGrad:
    """Hands the decoder's gradient of the word embedding to the lookup of the same forward pass.

    The lookup's backward pass is always the later one, as the decoder's input depends on what was looked up.
    """

    def __init__(self) -> None:
        self._grad_VD: Tensor | None = None

    def leave(self, grad_VD: Tensor) -> None:
        """Keep the decoder's gradient for the lookup."""
        self._grad_VD = grad_VD

    def take(self) -> Tensor | None:
        """Return what was left, once; None where nothing was."""
        grad_VD, self._grad_VD = self._grad_VD, None
        return grad_VD


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding_VD: Tensor, tokens_T: Tensor, tied_grad: TiedEmbeddingGrad) -> Tensor:
        ctx.save_for_backward(tokens_T)
        ctx.tied_grad, ctx.shape = tied_grad, embedding_VD.shape
        return F.embedding(tokens_T, embedding_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (tokens_T,) = ctx.saved_tensors
        grad_VD = ctx.tied_grad.take()
        if grad_VD is None:
            grad_VD = grad_TD.new_zeros(ctx.shape)
        return grad_VD.index_add_(0, tokens_T, grad_TD.to(grad_VD.dtype)), None, None


def look_up(embedding_VD: Tensor, tokens_T: Tensor, tied_grad: TiedEmbeddingGrad) -> Tensor:
    """Return rows [T, D] of the word embedding; their gradient is added to what the decoder leaves in ``tied_grad``."""
    return _Lookup.apply(embedding_VD, tokens_T, tied_grad)
