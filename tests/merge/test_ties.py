"""TIES against a slow NumPy loop written from section 4 of arXiv 2306.01708."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from megatron_mmbert.config.merge import MergeOptions
from megatron_mmbert.merge import ties
from megatron_mmbert.merge.methods import merge_tensor
from megatron_mmbert.merge.ties import kept_count, sign_conflict_share, trim


def slow_trim(delta: np.ndarray, density: float) -> np.ndarray:
    """Keep the k largest magnitudes, the earlier index first where they are equal."""
    k = max(1, math.floor(density * delta.size + 0.5))
    order = sorted(range(delta.size), key=lambda i: (-abs(float(delta[i])), i))
    out = np.zeros_like(delta)
    for i in order[:k]:
        out[i] = delta[i]
    return out


def slow_ties(base: Tensor, models: list[Tensor], density: float, weights: list[float], scale: float) -> Tensor:
    start = base.numpy().astype(np.float64).ravel()
    trimmed = [slow_trim(m.numpy().astype(np.float64).ravel() - start, density) for m in models]
    out = start.copy()
    for i in range(start.size):
        elected = np.sign(sum(w * d[i] for w, d in zip(weights, trimmed, strict=True)))
        agreeing = [(w, d[i]) for w, d in zip(weights, trimmed, strict=True) if d[i] != 0 and np.sign(d[i]) == elected]
        if sum(w for w, _ in agreeing) > 0:
            out[i] += scale * sum(w * d for w, d in agreeing) / sum(w for w, _ in agreeing)
    return torch.from_numpy(out).reshape(base.shape)


def random_models(count: int, shape: tuple[int, ...], steps: int | None = None) -> tuple[Tensor, list[Tensor]]:
    """A base and models; with ``steps``, values on a coarse grid, so that many magnitudes are equal."""
    generator = torch.Generator().manual_seed(count * 100 + len(shape))
    draws = [torch.randn(shape, generator=generator) for _ in range(count + 1)]
    if steps is not None:
        draws = [(draw * steps).round() / steps for draw in draws]
    return draws[0], draws[1:]


@pytest.mark.parametrize("steps", [None, 2])
@pytest.mark.parametrize("shape", [(1,), (7,), (6, 9), (3, 4, 5)])
@pytest.mark.parametrize(
    ("density", "weights", "scale"),
    [(0.5, None, 1.0), (0.2, (1.0, 2.0, 0.5), 0.7), (1.0, (0.0, 1.0, 3.0), 1.0), (0.01, None, 2.0), (0.999, None, 1.0)],
)
def test_equals_the_slow_reference(
    shape: tuple[int, ...], density: float, weights: tuple[float, ...] | None, scale: float, steps: int | None
) -> None:
    base, models = random_models(3, shape, steps)
    merged = merge_tensor("ties", base, models, MergeOptions(density=density, weights=weights, scale=scale)).tensor
    expected = slow_ties(base, models, density, list(weights or (1.0, 1.0, 1.0)), scale)
    assert merged.dtype == torch.float32 and merged.shape == base.shape
    torch.testing.assert_close(merged.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("density", "numel", "kept"),
    [(0.5, 5, 3), (0.5, 4, 2), (0.1, 30, 3), (0.25, 10, 3), (0.24, 10, 2), (0.001, 10, 1), (1.0, 7, 7), (0.99, 10, 10)],
)
def test_rounding_of_the_kept_count(density: float, numel: int, kept: int) -> None:
    assert kept_count(density, numel) == kept
    assert int((trim(torch.arange(1.0, numel + 1), density) != 0).sum()) == kept


def test_equal_magnitudes_at_the_threshold_keep_the_earlier() -> None:
    delta = torch.tensor([[1.0, -2.0, 1.0], [-1.0, 3.0, 1.0]])
    assert trim(delta, 0.5).tolist() == [[1.0, -2.0, 0.0], [0.0, 3.0, 0.0]]
    assert trim(delta, 4 / 6).tolist() == [[1.0, -2.0, 1.0], [0.0, 3.0, 0.0]]


def test_mostly_zero_delta_keeps_all_that_moved() -> None:
    delta = torch.zeros(1000)
    delta[[3, 500]] = torch.tensor([1e-30, -5.0])
    assert torch.equal(trim(delta, 0.5), delta)
    assert not trim(torch.zeros(4), 0.5).any()
    assert trim(torch.zeros(0, 3), 0.5).shape == (0, 3)


def test_density_one_is_the_sign_elected_mean() -> None:
    base = torch.zeros(4)
    models = [
        torch.tensor([1.0, 2.0, -1.0, 1.0]),
        torch.tensor([3.0, -1.0, -2.0, -1.0]),
        torch.tensor([2.0, 1.0, 9.0, 0.0]),
    ]
    merged = merge_tensor("ties", base, models, MergeOptions(density=1.0)).tensor
    # sums: 6, 2, 6, 0 -> means over the agreeing: (1+3+2)/3, (2+1)/2, 9/1, nothing
    assert merged.tolist() == [2.0, 1.5, 9.0, 0.0]


def test_one_model_is_reproduced() -> None:
    base, (model,) = random_models(1, (40, 30))
    merged = merge_tensor("ties", base, [model], MergeOptions(density=1.0)).tensor
    assert (merged - model).abs().max().item() <= 2 * torch.finfo(torch.float32).eps * float(base.abs().max() * 2)
    assert not torch.equal(merge_tensor("ties", base, [model], MergeOptions(density=0.5)).tensor, model)


def test_half_precision_inputs_are_merged_in_float32() -> None:
    base, models = random_models(2, (64,))
    half = [tensor.bfloat16() for tensor in (base, *models)]
    merged = merge_tensor("ties", half[0], half[1:], MergeOptions(density=0.5)).tensor
    exact = slow_ties(half[0].float(), [half[1].float(), half[2].float()], 0.5, [1.0, 1.0], 1.0)
    torch.testing.assert_close(merged.double(), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shape", [(30, 7), (211,)])
def test_chunks_do_not_change_a_bit(shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    base, models = random_models(3, shape)
    whole = merge_tensor("ties", base, models, MergeOptions(density=0.4))
    monkeypatch.setattr(ties, "CHUNK", 16)
    split = merge_tensor("ties", base, models, MergeOptions(density=0.4))
    assert torch.equal(whole.tensor, split.tensor) and whole.sign_conflict_share == split.sign_conflict_share
    assert 0 < (whole.sign_conflict_share or 0) < 1


def test_inputs_are_not_changed() -> None:
    base, models = random_models(2, (50,))
    copies = [tensor.clone() for tensor in (base, *models)]
    merge_tensor("ties", base, models, MergeOptions(density=0.3))
    assert all(torch.equal(a, b) for a, b in zip(copies, (base, *models), strict=True))


def test_sign_conflicts_are_counted_after_trimming() -> None:
    a, b = torch.tensor([5.0, -0.1, 4.0, 0.0]), torch.tensor([-5.0, 0.1, 4.0, 0.0])
    assert sign_conflict_share([a, b]) == pytest.approx(2 / 3)
    assert merge_tensor("ties", torch.zeros(4), [a, b], MergeOptions(density=0.5)).sign_conflict_share == 0.5
    assert sign_conflict_share([torch.zeros(3)]) == 0.0
