"""Light recompute: what one pass over memory brings back is not kept for the backward pass.

The outputs of norms and of GeGLU are the inputs of linears, which keep them for their weights' gradients. Here such an
output leaves its linear empty-handed: its memory is given back once the linear has read it, and it is computed again
from what is kept anyway just before the linear's backward pass. No matrix product is repeated. (The idea is that of
"memory-efficient" norms and activations in arXiv 2205.05198, section 5.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from megatron_mmbert.model.norm import WeightOnlyLayerNorm

_AGAIN = "_computed_again_by"


def can_be_computed_again(output: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """Mark ``output``: one of the linears below, if it comes to one, may drop it.

    Args:
        compute: gives ``output`` again, bit for bit, from tensors that the backward pass keeps.
    """
    if output.requires_grad:
        setattr(output, _AGAIN, compute)
    return output


def drop_until_backward(input_: Tensor, output: Tensor) -> None:
    """Free a marked ``input_`` of the function that made ``output``, until the gradient of ``output`` has come."""
    compute = input_.__dict__.pop(_AGAIN, None)
    if compute is None or not output.requires_grad:
        return
    size = input_.untyped_storage().nbytes()
    held = [(input_, compute)]  # given up when used: hooks live as long as the whole graph

    def restore(_: Tensor) -> None:
        if not held:
            return
        dropped, again = held.pop()
        with torch.no_grad():
            computed = again()
        # By storage, as no tensor that autograd has saved may be written to.
        storage = dropped.untyped_storage()
        storage.resize_(size)
        storage.copy_(computed.untyped_storage())

    output.register_hook(restore)
    input_.untyped_storage().resize_(0)


class LightLayerNorm(WeightOnlyLayerNorm):
    """A norm whose output goes to a linear and nowhere else."""

    def forward(self, x: Tensor) -> Tensor:
        normalize = super().forward
        return can_be_computed_again(normalize(x), lambda: normalize(x))


class LightColumnLinear(ColumnParallelLinear):
    """Megatron-Core's, which drops a marked input."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(input_, *args, **kwargs)
        drop_until_backward(input_, output[0])
        return output


class LightRowLinear(RowParallelLinear):
    """Megatron-Core's, which drops a marked input."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(input_, *args, **kwargs)
        drop_until_backward(input_, output[0])
        return output
