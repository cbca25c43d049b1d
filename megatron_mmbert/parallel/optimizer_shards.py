"""The part of each logical tensor that this rank's optimizer holds: one list for the RMS and for checkpoints.

Tensor parallelism cuts a tensor along a dimension, pipeline parallelism gives it to one stage (the tied word embedding
to two), and the distributed optimizer gives each data-parallel rank a flat range that may begin and end anywhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch.distributed as dist
from megatron.core.optimizer.optimizer import MegatronOptimizer
from torch import Tensor

from megatron_mmbert import compat
from megatron_mmbert.parallel import process_groups
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.parallel.shards import Cut


@dataclass(frozen=True)
class OptimizerShard:
    """Elements ``start:stop`` of this rank's flattened part of a logical tensor.

    Attributes:
        name: the logical tensor's name, the same on every rank that holds some of it.
        cut: the part of the logical tensor that the model's parameter is.
        tensor: what the optimizer updates: the parameter, its fp32 master, or a flat slice of either.
        is_master: whether ``tensor`` is an fp32 copy, not the parameter itself.
        counts: whether this rank's elements count in a sum over all ranks (of identical copies one counts).
        written: the elements that this rank writes into a checkpoint, so that each is written by one rank.
    """

    name: str
    cut: Cut
    tensor: Tensor
    start: int
    stop: int
    is_master: bool
    counts: bool
    written: tuple[int, int]


def optimizer_shards(
    optimizer: MegatronOptimizer, named_parameters: Iterable[tuple[str, Tensor]]
) -> list[OptimizerShard]:
    """The shards of a Megatron-Core optimizer around StableAdamW, in the order of the parameters.

    Args:
        named_parameters: (logical name, parameter) of every trainable parameter of this rank's model chunks.
    """
    return [
        shard
        for name, param in named_parameters
        if param.requires_grad and (shard := _shard(optimizer, name, param)) is not None
    ]


def _shard(optimizer: MegatronOptimizer, name: str, param: Tensor) -> OptimizerShard | None:
    """Return None where the distributed optimizer gave every element to other ranks."""
    here = current()
    split = here.tp_size > 1 and getattr(param, "tensor_model_parallel", False)
    dim, stride = (param.partition_dim, getattr(param, "partition_stride", 1)) if split else (-1, 1)  # type: ignore[attr-defined]
    cut = Cut(tuple(param.shape), dim, stride, here.tp_rank, here.tp_size if split else 1)
    # Of copies, those of the first tensor-parallel rank, and the first stage's tied word embedding, stand for all.
    first_copy = (split or here.tp_rank == 0) and not getattr(param, "shared", False)
    if hasattr(optimizer, compat.PARAMETER_BUFFERS.name):
        if param not in compat.PARAMETER_BUFFERS.of(optimizer):
            return None
        group, place = compat.PARAMETER_GROUP_INDEX.of(optimizer)[param]
        tensor, whole = optimizer.optimizer.param_groups[group]["params"][place], False
        span = compat.PARAMETER_RANGE.of(optimizer)(param)["param"]
        start, stop, written = span.start, span.end, (span.start, span.end)
    else:
        tensor, whole = getattr(param, "main_param", param), True
        start, stop = 0, param.numel()
        written = (stop * here.dp_rank // here.dp_size, stop * (here.dp_rank + 1) // here.dp_size)
    return OptimizerShard(
        name=name,
        cut=cut,
        tensor=tensor,
        start=start,
        stop=stop,
        is_master=tensor.dtype != param.dtype,
        counts=first_copy and (not whole or here.dp_rank == 0),
        written=written if first_copy else (start, start),
    )


def names_of_all_stages(names: Iterable[str]) -> list[str]:
    """Return the names that the ranks of one copy of the model have between them, in the same order on every rank."""
    mine, group = sorted(set(names)), process_groups.model_parallel()
    gathered: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(gathered, mine, group=group)
    return sorted({name for each in gathered for name in each})
