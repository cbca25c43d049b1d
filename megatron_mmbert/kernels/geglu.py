"""GeGLU with the exact (erf) GELU: gelu(first half) * second half, with no copy of either half.

Autograd's own composition keeps gelu(first half) beside the input and joins the halves' gradients as sums with
zeros; here the input alone is kept, gelu is computed again (it costs less than the memory it would take), and both
gradients are written where they belong. On a GPU the composition is compiled, one kernel each way.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_mmbert.kernels.compiled import compiled_on_gpu
from megatron_mmbert.kernels.scratch import Slot, scratch


class _GeGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, passing: bool) -> Tensor:
        ctx.save_for_backward(x)
        active, linear = x.chunk(2, dim=-1)
        if not passing:
            return F.gelu(active).mul_(linear)
        out = scratch(Slot.LARGE, active.shape, active.dtype)
        return torch.ops.aten.gelu.out(active, out=out).mul_(linear)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        active, linear = x.chunk(2, dim=-1)
        dx = torch.empty_like(x)
        dactive, dlinear = dx.chunk(2, dim=-1)
        gelu = torch.ops.aten.gelu.out(active, out=scratch(Slot.SECOND_LARGE, active.shape, active.dtype))
        torch.mul(gelu, grad, out=dlinear)
        torch.mul(grad, linear, out=gelu)
        torch.ops.aten.gelu_backward.grad_input(gelu, active, grad_input=dactive)
        return dx, None


def geglu(x: Tensor, passing: bool = False) -> Tensor:
    """Return GeGLU of ``x``, [..., 2 F] -> [..., F].

    Args:
        passing: on a CPU the result is scratch that the next such call overwrites.
    """
    return _composed(x) if x.is_cuda else _GeGlu.apply(x, passing)


@compiled_on_gpu
def _composed(x: Tensor) -> Tensor:
    active, linear = x.chunk(2, dim=-1)
    return F.gelu(active) * linear
