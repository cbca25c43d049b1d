"""How logical tensors are cut over tensor-parallel ranks."""

from __future__ import annotations

import pytest
import torch

from megatron_mmbert.parallel.shards import join_shards, local_shard


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dim", [-1, 0, 1])
def test_joining_undoes_cutting(dim: int, stride: int, size: int) -> None:
    full = torch.arange(16 * 24).view(16, 24)
    shards = [local_shard(full, dim, stride, rank, size) for rank in range(size)]
    assert torch.equal(join_shards(shards, dim, stride), full)
    if dim >= 0:
        assert all(shard.shape[dim] == full.shape[dim] // size for shard in shards)
        assert torch.cat([shard.flatten() for shard in shards]).unique().numel() == full.numel(), "no element twice"
    else:
        assert all(torch.equal(shard, full) for shard in shards)


def test_each_half_of_a_gated_matrix_is_cut_on_its_own() -> None:
    """Rank r must hold the same rows of the activated half and of the half that multiplies it."""
    activated, multiplied = torch.arange(8).view(4, 2), 100 + torch.arange(8).view(4, 2)
    shard = local_shard(torch.cat((activated, multiplied)), 0, 2, 1, 2)
    assert torch.equal(shard, torch.cat((activated[2:], multiplied[2:])))
    assert torch.equal(local_shard(activated, 0, 1, 1, 2), activated[2:])
    assert torch.equal(local_shard(activated, 1, 1, 1, 2), activated[:, 1:])
