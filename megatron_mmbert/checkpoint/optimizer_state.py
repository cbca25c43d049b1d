"""The optimizer's state as logical tensors, independent of the parallel layout and of Megatron-Core's optimizer.

Megatron-Core's own formats differ between its optimizers, and none reads the other's. Here each logical tensor has its
two moments, and its fp32 master where the model is in bf16, under names that do not depend on the ranks; the step
counter is one number. Every rank writes what it holds, as rectangles of the logical tensors: nothing is gathered.
"""

from __future__ import annotations

from collections.abc import Container, Iterator

import torch
from megatron.core.dist_checkpointing import ShardedTensor
from torch import Tensor

from megatron_mmbert.optim.optimizer import Optimizer
from megatron_mmbert.parallel.optimizer_shards import OptimizerShard
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.parallel.shards import boxes

MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "fp32_param"
STEP_KEY = "optimizer.step"


def key_of(kind: str, name: str) -> str:
    """Return the stored name of a moment (:data:`MOMENTS`) or of the master (:data:`MASTER`) of tensor ``name``."""
    return f"optimizer.state.{kind}.{name}"


def state_to_save(optimizer: Optimizer) -> dict[str, ShardedTensor]:
    """Return the rectangles of the optimizer's state that this rank writes, sharing memory with it."""
    found = _step(optimizer)
    for shard in optimizer.shards:
        for kind, held in _tensors(optimizer, shard):
            key = key_of(kind, shard.name)
            found |= _rectangles(key, held, shard, *shard.written)
    return found


def state_to_load(optimizer: Optimizer, stored: Container[str]) -> dict[str, ShardedTensor]:
    """Return the rectangles that this rank reads, in tensors for :func:`load_state`.

    Args:
        stored: names of all tensors in the checkpoint: a run in fp32 has no masters apart from its weights.
    """
    found = _step(optimizer)
    for shard in optimizer.shards:
        for kind, held in _tensors(optimizer, shard):
            key = key_of(kind, shard.name)
            source = shard.name if kind == MASTER and key not in stored else key
            found |= _rectangles(source, held, shard, shard.start, shard.stop, key)
    return found


def load_state(optimizer: Optimizer, loaded: dict[str, Tensor]) -> None:
    """Copy the tensors of :func:`state_to_load`, which have been read, into the optimizer."""
    steps = int(loaded[STEP_KEY].item())
    for group in optimizer.stable_adamw.param_groups:
        group["step"] = steps
    for shard in optimizer.shards:
        for kind, held in _tensors(optimizer, shard):
            for box in boxes(shard.cut, shard.start, shard.stop):
                value = loaded[_rectangle_name(key_of(kind, shard.name), box.start)]
                held[box.start - shard.start : box.stop - shard.start].copy_(value.view(-1))


def _tensors(optimizer: Optimizer, shard: OptimizerShard) -> Iterator[tuple[str, Tensor]]:
    """Yield (kind, flat tensor of the shard's elements), sharing memory with the optimizer's own."""
    inner = optimizer.stable_adamw
    inner.initialize_state(shard.tensor)
    for kind in MOMENTS:
        yield kind, inner.state[shard.tensor][kind].view(-1)
    if shard.is_master:
        yield MASTER, shard.tensor.detach().view(-1)


def _rectangles(
    key: str, held: Tensor, shard: OptimizerShard, start: int, stop: int, name: str | None = None
) -> dict[str, ShardedTensor]:
    """Return elements ``start:stop`` of a flattened shard as rectangles of the logical tensor ``key``.

    Args:
        held: the elements ``shard.start:shard.stop``.
        name: begins the names under which they are returned; by default ``key``.
    """
    found = {}
    for box in boxes(shard.cut, start, stop):
        data = held[box.start - shard.start : box.stop - shard.start].view(box.shape)
        found[_rectangle_name(name or key, box.start)] = ShardedTensor(
            key=key,
            data=data,
            dtype=data.dtype,
            local_shape=box.shape,
            global_shape=shard.cut.logical_shape,
            global_offset=box.offset,
            axis_fragmentations=None,  # no regular grid
        )
    return found


def _rectangle_name(key: str, start: int) -> str:
    return f"{key}@{start}"


def _step(optimizer: Optimizer) -> dict[str, ShardedTensor]:
    """Return the step counter, which every rank holds and one writes."""
    value = torch.tensor([optimizer.stable_adamw.param_groups[0]["step"]])
    return {STEP_KEY: ShardedTensor.from_rank_offsets(STEP_KEY, value, replica_id=current().rank)}
