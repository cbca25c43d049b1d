"""How logical tensors are cut over tensor-parallel ranks."""

from __future__ import annotations

import pytest
import torch
from support.joined_shards import join_shards

from megatron_mmbert.parallel.shards import Cut, boxes, local_shard


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


@pytest.mark.parametrize("share", [1, 3, 5, 6, 13, 100])
@pytest.mark.parametrize(
    ("shape", "dim", "stride"), [((8, 6), -1, 1), ((8, 6), 0, 1), ((8, 6), 0, 2), ((8, 6), 1, 1), ((24,), 0, 1)]
)
def test_flat_ranges_are_rectangles_of_the_logical_tensor(
    shape: tuple[int, ...], dim: int, stride: int, share: int
) -> None:
    """Flat buffers cut anywhere: the rectangles of all ranks' ranges put the logical tensor together, each element
    once."""
    size = 2 if dim >= 0 else 1
    full = torch.randn([n * size if axis == dim else n for axis, n in enumerate(shape)])
    joined, written = torch.zeros_like(full), torch.zeros_like(full)
    for rank in range(size):
        cut = Cut(shape, dim, stride, rank, size)
        assert cut.logical_shape == tuple(full.shape)
        part = local_shard(full, dim, stride, rank, size)
        for start in range(0, part.numel(), share):
            found = boxes(cut, start, min(start + share, part.numel()))
            assert [box.start for box in found[1:]] == [box.stop for box in found[:-1]], "nothing left out"
            assert (found[0].start, found[-1].stop) == (start, min(start + share, part.numel()))
            for box in found:
                place = tuple(slice(o, o + n) for o, n in zip(box.offset, box.shape, strict=True))
                joined[place] = part.flatten()[box.start : box.stop].view(box.shape)
                written[place] += 1
    assert torch.equal(joined, full)
    assert (written == 1).all()


def test_an_empty_range_has_no_rectangle() -> None:
    assert boxes(Cut((4, 4), -1, 1, 0, 1), 5, 5) == []
