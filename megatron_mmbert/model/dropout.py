"""The dropout of the attention's output, by a mask that depends on (pack, layer) alone, not on the parallel layout.

Each rank draws the mask of the whole pack from a generator of its own key and takes its part of the tokens, so tensor,
sequence, pipeline and data parallelism, micro batches and recomputation all drop the same units, and no random state is
kept anywhere.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from megatron_mmbert.kernels.compiled import compiled_on_gpu
from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.memory_saving.masked_rows import MaskedRows
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.utils.counter_rng import key64


def output_dropout(
    x_T1D: Tensor, config: EncoderConfig, pack_keys: Sequence[int], layer_number: int, rows: MaskedRows | None = None
) -> Tensor:
    """Return the attention output of one layer after dropout, in training.

    Args:
        x_T1D: [T, 1, D], T being this rank's tokens under sequence parallelism.
        pack_keys: 64 bits of each of the packs, which are of one length.
        rows: what ``x_T1D`` has of the packs, None for all; not under sequence parallelism.
    """
    if config.hidden_dropout == 0:
        return x_T1D
    shards = config.tensor_model_parallel_size if config.sequence_parallel else 1
    keys = [key64(key, layer_number) for key in pack_keys]
    return keyed_dropout(x_T1D, config.hidden_dropout, keys, shards, rows)


def keyed_dropout(
    x: Tensor, rate: float, keys: Sequence[int], shards: int = 1, rows: MaskedRows | None = None
) -> Tensor:
    """Set elements to 0 with probability ``rate`` and scale the others by 1 / (1 - rate).

    Args:
        x: this rank's rows of a tensor whose rows are spread evenly over ``shards`` tensor-parallel ranks.
        keys: of each of as many equal parts of all rows, 64 bits that fix its mask (the CPU's generator reads the lower
            half of them).
        rows: those that ``x`` has of the packs, None for all of them.
    """
    generator = _generator(x.device)
    count = len(x)
    kind = torch.bool if x.is_cuda else torch.float32  # a CPU draws floats faster
    total = count * shards if rows is None else rows.total
    dropped = torch.empty((total, *x.shape[1:]), dtype=kind, device=x.device)
    for part, key in zip(dropped.chunk(len(keys)), keys, strict=True):
        generator.manual_seed(key)
        part.bernoulli_(rate, generator=generator)
    if rows is not None:
        dropped = dropped[rows.index_K]
    elif shards > 1:
        dropped = dropped[current().tp_rank * count : (current().tp_rank + 1) * count]
    return _without(x, dropped, 1 / (1 - rate))


@compiled_on_gpu
def _without(x: Tensor, dropped: Tensor, scale: float) -> Tensor:
    return x.masked_fill(dropped.bool(), 0) * scale


@functools.cache
def _generator(device: torch.device) -> torch.Generator:
    """Return the one generator of a device, given a key before each use."""
    return torch.Generator(device)
