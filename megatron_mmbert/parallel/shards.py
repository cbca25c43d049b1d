"""How Megatron-Core cuts a logical tensor over tensor-parallel ranks, and how it is put together again."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def local_shard(full: Tensor, dim: int, stride: int, rank: int, size: int) -> Tensor:
    """The part of ``full`` that tensor-parallel rank ``rank`` of ``size`` holds.

    Args:
        full: the logical tensor.
        dim: Megatron's ``partition_dim``; negative means replicated.
        stride: Megatron's ``partition_stride``: the tensor is ``stride`` stacked matrices, each cut on its own
            (2 for the gated fc1, whose halves are [activated; multiplied]).
    """
    if dim < 0 or size == 1:
        return full
    return torch.cat([part.chunk(size, dim)[rank] for part in full.chunk(stride, dim)], dim)


def join_shards(shards: Sequence[Tensor], dim: int, stride: int) -> Tensor:
    """The inverse of :func:`local_shard` over all ranks, in rank order."""
    if dim < 0 or len(shards) == 1:
        return shards[0]
    parts = [shard.chunk(stride, dim) for shard in shards]
    return torch.cat([part[number] for number in range(stride) for part in parts], dim)
