"""The tied embedding gradient: decoder and lookup write into one gradient of the word embedding.

Left to autograd, the lookup makes a second gradient as large as the word embedding, mostly zeros, and both are added:
with 256,000 words that is the largest tensor of a step, and three passes over it. Here the decoder's backward pass
leaves its gradient in a :class:`TiedEmbeddingGrad`, and the lookup's, which comes later, adds its few rows in place::

    forward    tokens -> look_up ---> layers ---> decoder -> loss
    backward             look_up <--- layers <--- decoder
                            ^                        |
                            +--- TiedEmbeddingGrad <-+      gives V x D to the parameter, the decoder gives none

On a GPU both go straight into the fp32 buffer in which Megatron-Core sums the gradients of the step: by way of the
parameter's ``grad`` they would be rounded to bf16, and pass over memory two times more.
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
        self._scale: Tensor | None = None

    def leave(self, grad_VD: Tensor, scale: Tensor | None = None) -> None:
        """Keep the decoder's gradient for the lookup: ``grad_VD``, times the scalar ``scale`` if there is one."""
        self._grad_VD, self._scale = grad_VD, scale

    def take(self) -> Tensor | None:
        """Return what was left, once; None where nothing was."""
        grad_VD, scale = self._grad_VD, self._scale
        self._grad_VD = self._scale = None
        return grad_VD if grad_VD is None or scale is None else grad_VD.mul_(scale)

    def add_to(self, sum_VD: Tensor) -> None:
        """Add what was left to ``sum_VD``, once, in one pass."""
        grad_VD, scale = self._grad_VD, self._scale
        self._grad_VD = self._scale = None
        if grad_VD is not None:
            sum_VD.add_(grad_VD) if scale is None else sum_VD.addcmul_(grad_VD, scale)


class _Lookup(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, embedding_VD: Tensor, tokens_T: Tensor, tied_grad: TiedEmbeddingGrad) -> Tensor:
        ctx.save_for_backward(tokens_T)
        ctx.tied_grad, ctx.embedding = tied_grad, embedding_VD
        return F.embedding(tokens_T, embedding_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_TD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (tokens_T,) = ctx.saved_tensors
        main_grad_VD = _buffer_of(ctx.embedding)
        if main_grad_VD is not None:
            ctx.tied_grad.add_to(main_grad_VD)
            main_grad_VD.index_add_(0, tokens_T, grad_TD.to(main_grad_VD.dtype))
            # Megatron-Core's hook waits for a gradient, and reads it unless told that it is added already. Where the
            # embedding has two users it reads it all the same, expecting zeros: here the decoder gives none.
            ctx.embedding.grad_added_to_main_grad, ctx.embedding.zero_out_wgrad = True, False
            return torch.empty_like(ctx.embedding), None, None
        grad_VD = ctx.tied_grad.take()
        if grad_VD is None:
            grad_VD = grad_TD.new_zeros(ctx.embedding.shape)
        return grad_VD.index_add_(0, tokens_T, grad_TD.to(grad_VD.dtype)), None, None


def _buffer_of(embedding_VD: Tensor) -> Tensor | None:
    """Return the fp32 buffer that a GPU's gradient of the embedding goes into; None without Megatron-Core's wrapper."""
    return getattr(embedding_VD, "main_grad", None) if embedding_VD.is_cuda else None


def look_up(embedding_VD: Tensor, tokens_T: Tensor, tied_grad: TiedEmbeddingGrad) -> Tensor:
    """Return rows [T, D] of the word embedding; their gradient is added to what the decoder leaves in ``tied_grad``."""
    return _Lookup.apply(embedding_VD, tokens_T, tied_grad)
