"""GeGLU with the exact (erf) GELU: gelu(first half) * second half, with no copy of either half.

Autograd's own composition keeps gelu(first half) beside the input and joins the halves' gradients by zero-filling and
adding; here the input alone is kept, gelu is computed again (it costs less than the memory it would take), and both
gradients are written where they belong. On a GPU the composition is compiled, one kernel each way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_mmbert.kernels.compiled import compiled_on_gpu


class _GeGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        active, linear = x.chunk(2, dim=-1)
        return F.gelu(active).mul_(linear)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        active, linear = x.chunk(2, dim=-1)
        dx = torch.empty_like(x)
        dactive, dlinear = dx.chunk(2, dim=-1)
        torch.mul(F.gelu(active), grad, out=dlinear)
        torch.ops.aten.gelu_backward.grad_input(grad * linear, active, grad_input=dactive)
        return dx


def geglu(x: Tensor) -> Tensor:
    """[..., 2 F] -> [..., F]."""
    return _composed(x) if x.is_cuda else _GeGlu.apply(x)


@compiled_on_gpu
def _composed(x: Tensor) -> Tensor:
    active, linear = x.chunk(2, dim=-1)
    return F.gelu(active) * linear
