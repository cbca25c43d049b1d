"""Recomputation: what one pass over memory brings back is not kept for the backward pass (``recompute: light``).

The outputs of norms and of GeGLU are the inputs of linear layers, which keep them for their weights' gradients. Here
the linear layer keeps how to compute its input instead, and computes it when its backward pass asks for it, from what
is kept anyway. No matrix product is repeated::

    h ---> norm -------------> y ---> linear -> ...      forward: the norm writes on y how to compute it from h
    kept   Recomputation(norm(h))     keeps the Recomputation, not y: y's memory is free again

The :class:`Recomputation` travels from the norm to the linear layer as an attribute of the tensor y, since between the
two stands Megatron-Core's code, which hands on tensors and nothing else. (Megatron-Core does the same by its
``CheckpointWithoutOutput``, which records and restores random states; nothing here draws any.) :func:`checkpointed` is
the plain kind, for ``recompute: selective``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.tensor_parallel import ColumnParallelLinear, RowParallelLinear, checkpoint, get_cuda_rng_tracker
from torch import Tensor

from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.norm import WeightOnlyLayerNorm


@dataclass(frozen=True)
class Recomputation:
    """The way to compute a tensor again.

    Attributes:
        compute: gives the tensor, bit for bit, from tensors that the backward pass keeps.
    """

    compute: Callable[[], Tensor]

    def attach_to(self, output: Tensor) -> Tensor:
        """Return ``output``, which from now on carries this; one of the linear layers below need not keep it."""
        if output.requires_grad:
            setattr(output, _ATTRIBUTE, self)
        return output

    @staticmethod
    def detach_from(tensor: Tensor) -> Recomputation | None:
        """Return what ``tensor`` carries, once; None where it carries none."""
        carried: Recomputation | None = tensor.__dict__.pop(_ATTRIBUTE, None)
        return carried


_ATTRIBUTE = "_megatron_mmbert_recomputation"


@contextmanager
def input_not_kept(input_: Tensor) -> Iterator[None]:
    """Have functions called within keep the recomputation of ``input_``, if it carries one, instead of ``input_``."""
    carried = Recomputation.detach_from(input_)
    if carried is None or not torch.is_grad_enabled():
        yield
        return
    storage = input_.untyped_storage().data_ptr()

    def save(tensor: Tensor) -> Tensor | _Kept:
        is_input = tensor.untyped_storage().data_ptr() == storage
        return _Kept(carried, tensor.shape) if is_input else tensor

    with torch.autograd.graph.saved_tensors_hooks(save, _load):
        yield


@dataclass(frozen=True)
class _Kept:
    """Stands in autograd's graph for an input of that shape."""

    recomputation: Recomputation
    shape: torch.Size


def _load(saved: Tensor | _Kept) -> Tensor:
    if isinstance(saved, Tensor):
        return saved
    with torch.no_grad():
        return saved.recomputation.compute().view(saved.shape)


class RecomputedLayerNorm(WeightOnlyLayerNorm):
    """A norm whose output goes to a linear layer and nowhere else."""

    def forward(self, x: Tensor) -> Tensor:
        normalize = super().forward
        return Recomputation(lambda: normalize(x)).attach_to(normalize(x))


class RecomputedColumnLinear(ColumnParallelLinear):
    """Megatron-Core's column-parallel linear layer, which does not keep an input that can be computed again."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        with input_not_kept(input_):
            return super().forward(input_, *args, **kwargs)


class RecomputedRowLinear(RowParallelLinear):
    """Megatron-Core's row-parallel linear layer, which does not keep an input that can be computed again."""

    def forward(self, input_: Tensor, *args: Any, **kwargs: Any) -> Any:
        with input_not_kept(input_):
            return super().forward(input_, *args, **kwargs)


def checkpointed(module: Callable[[Tensor], Any], x: Tensor, config: EncoderConfig, tensor_parallel: Any) -> Any:
    """Return ``module(x)``; of its forward pass ``x`` alone is kept, and the backward pass repeats the whole.

    Args:
        tensor_parallel: the group of ranks that share the module.
    """
    if config.fp8:
        from megatron.core.extensions.transformer_engine import te_checkpoint

        return te_checkpoint(module, False, get_cuda_rng_tracker, tensor_parallel, x)
    return checkpoint(module, False, x)
