"""The inverse of how Megatron-Core cuts a logical tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def join_shards(shards: Sequence[Tensor], dim: int, stride: int) -> Tensor:
    """Put together what ``local_shard`` gives each rank, in rank order."""
    if dim < 0 or len(shards) == 1:
        return shards[0]
    parts = [shard.chunk(stride, dim) for shard in shards]
    return torch.cat([part[number] for number in range(stride) for part in parts], dim)
