"""StableAdamW's RMS over logical tensors: every rank adds what it holds of each, in one small all-reduce per step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_mmbert.parallel.optimizer_shards import OptimizerShard
from megatron_mmbert.parallel.runtime import current


class LogicalRms:
    """(sum of squares, number of elements) of every logical tensor; the optimizer's ``rms_reducer``.

    The sum goes over all ranks, also where fewer would do: it is one vector of as many fp64 numbers as the model has
    tensors, and every rank then steps by the same bits, the two copies of the tied word embedding included.

    Args:
        shards: what this rank's optimizer holds.
        names: of all tensors of the model, the same on every rank.
    """

    def __init__(self, shards: Sequence[OptimizerShard], names: Sequence[str]) -> None:
        row = {name: number for number, name in enumerate(names)}
        self._names = len(names)
        self._rows = {id(shard.tensor): row[shard.name] for shard in shards}
        self._counts = {id(shard.tensor): float(shard.counts) for shard in shards}
        self._elements = {id(shard.tensor): _elements(shard) for shard in shards}
        self._known: tuple[list[int], tuple[Tensor, Tensor, Tensor]] | None = None

    def __call__(self, squares_P: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """fp64 [P] each; a collective, to be called once per step on every rank."""
        device = current().device
        row_P, counts_P, elements_P = self._on_device(params, device)
        if current().world_size == 1:
            return squares_P, elements_P
        total_N = torch.zeros(self._names, dtype=torch.float64, device=device)
        total_N.index_add_(0, row_P, squares_P.to(device) * counts_P)
        dist.all_reduce(total_N)
        return total_N[row_P], elements_P

    def _on_device(self, params: Sequence[Tensor], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Return row, weight and size of each tensor on the device; the same tensors come every step."""
        keys = [id(param) for param in params]
        if self._known is None or self._known[0] != keys:
            rows = torch.tensor([self._rows[key] for key in keys], dtype=torch.int64).to(device)
            counts = torch.tensor([self._counts[key] for key in keys], dtype=torch.float64).to(device)
            elements = torch.tensor([self._elements[key] for key in keys], dtype=torch.float64).to(device)
            self._known = keys, (rows, counts, elements)
        return self._known[1]


def _elements(shard: OptimizerShard) -> int:
    """Return the number of elements of the logical tensor."""
    total = 1
    for size in shard.cut.logical_shape:
        total *= size
    return total
