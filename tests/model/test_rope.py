"""Rotation of queries and keys against complex numbers, and positions that restart in every sample."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.rope import cos_sin, rotate, rotate_packed


def by_complex_numbers(x_THD: Tensor, positions: Tensor, theta: float) -> Tensor:
    """Element i of the first half and of the second half are one complex number, turned by position * theta^(-2i/D)."""
    half = x_THD.shape[-1] // 2
    number = torch.complex(x_THD[..., :half].double(), x_THD[..., half:].double())
    speed = torch.tensor([math.pow(theta, -pair / half) for pair in range(half)], dtype=torch.float64)
    angle = positions.double()[:, None, None] * speed
    turned = number * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), -1)


@pytest.mark.parametrize("theta", [10_000.0, 160_000.0])
@pytest.mark.parametrize("width", [2, 32, 64])
def test_rotation_is_that_of_complex_numbers(theta: float, width: int) -> None:
    x = torch.randn(300, 3, width, generator=torch.Generator().manual_seed(0))
    positions = torch.cat(
        (torch.arange(290), torch.tensor([1023, 1024, 2047, 4095, 5000, 6000, 7000, 8000, 8190, 8191]))
    )
    out = rotate(x, *cos_sin(positions, theta, width))
    # fp32 angles up to 8191 are exact to about 5e-4; the first 290 positions much better
    torch.testing.assert_close(out.double(), by_complex_numbers(x, positions, theta), rtol=0, atol=4e-3)
    near = slice(0, 290)
    torch.testing.assert_close(
        out[near].double(), by_complex_numbers(x[near], positions[near], theta), rtol=0, atol=1e-4
    )


def test_scores_depend_on_distance_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, 64, generator=generator).expand(50, 1, 64) for _ in range(2))
    tables = cos_sin(torch.arange(50), 160_000.0, 64)
    scores = rotate(q, *tables)[:, 0] @ rotate(k, *tables)[:, 0].T
    for distance in (-7, 0, 1, 30):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=0, atol=1e-4)
    assert (scores[0, 1] - scores[1, 0]).abs() > 1e-2, "left and right must differ"


def test_the_dtype_is_kept_and_the_sum_is_made_in_fp32() -> None:
    x = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    tables = cos_sin(torch.arange(5), 10_000.0, 8)
    assert tables[0].dtype == tables[1].dtype == torch.float32
    out = rotate(x, *tables)
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, rotate(x.float(), *tables).bfloat16())


def test_positions_restart_in_every_sample(pack: Callable[..., PackedSequences]) -> None:
    packed = pack([3, 1, 4])
    assert packed.position_T.tolist() == [0, 1, 2, 0, 0, 1, 2, 3]
    cos, sin = packed.cos_sin(10_000.0, 8)
    alone = cos_sin(torch.arange(4), 10_000.0, 8)
    assert cos.shape == sin.shape == (8, 1, 8)
    assert torch.equal(cos[4:], alone[0]) and torch.equal(sin[4:], alone[1])
    assert packed.cos_sin(10_000.0, 8)[0] is cos, "made once for all layers"
    assert not torch.equal(packed.cos_sin(160_000.0, 8)[0], cos)


def test_given_positions_are_used() -> None:
    bounds = torch.tensor([0, 2], dtype=torch.int32)
    packed = PackedSequences.of(bounds, 2, torch.tensor([5, 6]))
    assert torch.equal(packed.cos_sin(10_000.0, 8)[0], cos_sin(torch.tensor([5, 6]), 10_000.0, 8)[0])
    assert packed.qkv_format == "thd"
    assert packed.cu_seqlens_q is bounds and packed.max_seqlen_kv == 2


def test_a_packed_projection_is_rotated_as_its_parts_are() -> None:
    """What GPUs do in one pass: the same bits, and one gradient of the projection."""
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(9, 2, 3, 8, generator=generator).bfloat16().requires_grad_()
    tables = cos_sin(torch.arange(9), 1e4, 8)
    packed = rotate_packed(qkv, *tables)
    parts = [rotate(qkv[:, :, 0], *tables), rotate(qkv[:, :, 1], *tables), qkv[:, :, 2]]
    assert all(map(torch.equal, packed, parts)) and all(each.is_contiguous() for each in packed)
    directions = list(torch.randn(3, 9, 2, 8, generator=generator).bfloat16())
    (ours,), (theirs,) = (torch.autograd.grad(outputs, qkv, directions) for outputs in (packed, parts))
    assert torch.equal(ours, theirs)
