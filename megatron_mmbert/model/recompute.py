"""Light recompute: what one pass over memory brings back is not kept for the backward pass.

The outputs of norms and of GeGLU are the inputs of linears, which keep them for their weights' gradients. Here the
linear keeps how to compute its input, and computes it from what is kept anyway when its backward pass asks for it. No
matrix product is repeated. (Megatron-Core does the same by its ``CheckpointWithoutOutput``, which records and restores
random states; nothing here draws any.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear
from torch import Tensor

from megatron_mmbert.model.norm import WeightOnlyLayerNorm

_AGAIN = "_computed_again_by"


def can_be_computed_again(output: Tensor, compute: Callable[[], Tensor]) -> Tensor:
    """Mark ``output``: one of the linears below, if it comes to one, need not keep it.

    Args:
        compute: gives ``output`` again, bit for bit, from tensors that the backward pass keeps.
    """
    if output.requires_grad:
        setattr(output, _AGAIN, compute)
    return output


@contextmanager
def computed_again(input_: Tensor) -> Iterator[None]:
    """Functions called within do not save a marked ``input_``: their backward computes it anew."""
    compute = input_.__dict__.pop(_AGAIN, None)
    if compute is None or not torch.is_grad_enabled():
        yield
        return
    storage = input_.untyped_storage().data_ptr()

    def save(tensor: Tensor) -> Tensor | _Again:
        is_input = tensor.untyped_storage().data_ptr() == storage
        return _Again(compute, tensor.shape) if is_input else tensor

    with torch.autograd.graph.saved_tensors_hooks(save, _load):
        yield


@dataclass(frozen=True)
class _Again:
    compute: Callable[[], Tensor]
    shape: torch.Size


def _load(saved: Tensor | _Again) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    with torch.no_grad():
        return saved.compute().view(saved.shape)


class RecomputedLayerNorm(WeightOnlyLayerNorm):
    """A norm whose output goes to a linear and nowhere else."""

    def forward(self, x: Tensor) -> Tensor:
        normalize = super().forward
        return can_be_computed_again(normalize(x), lambda: normalize(x))


class RecomputedColumnLinear(ColumnParallelLinear):
    """Megatron-Core's, which does not keep a marked input."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        with computed_again(input_):
            return super().forward(input_, *args, **kwargs)


class RecomputedRowLinear(RowParallelLinear):
    """Megatron-Core's, which does not keep a marked input."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        with computed_again(input_):
            return super().forward(input_, *args, **kwargs)
