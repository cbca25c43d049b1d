"""Linear, SLERP, task arithmetic and the exponentially weighted mix, by hand-computed values and by properties."""

from __future__ import annotations

import math

import pytest
import torch

from megatron_mmbert.merge import norms
from megatron_mmbert.merge.ema import ema_weights
from megatron_mmbert.merge.options import METHODS, READS, MergeOptions, check_options
from megatron_mmbert.merge.registry import merge_tensors
from megatron_mmbert.merge.slerp import slerp
from megatron_mmbert.utils.errors import UserError


def test_linear_divides_by_the_sum_of_the_weights() -> None:
    models = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0])]
    assert merge_tensors("linear", None, models, MergeOptions()).tolist() == [3.0, 0.0]
    assert merge_tensors("linear", None, models, MergeOptions(weights=(3.0, 1.0))).tolist() == [2.0, 1.0]
    assert merge_tensors("linear", None, models, MergeOptions(weights=(0.0, 7.0))).tolist() == [5.0, -2.0]


def test_task_arithmetic_sums_task_vectors() -> None:
    base, models = torch.tensor([1.0, 1.0]), [torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0])]
    assert merge_tensors("task_arithmetic", base, models, MergeOptions()).tolist() == [2.0, 4.0]
    options = MergeOptions(weights=(2.0, 1.0), scale=0.5)
    assert merge_tensors("task_arithmetic", base, models, options).tolist() == [2.0, 2.5]


def test_ema_weighs_the_newest_most() -> None:
    assert ema_weights(3, 0.5) == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    models = [torch.tensor([7.0]), torch.tensor([14.0]), torch.tensor([0.0])]
    assert merge_tensors("ema", None, models, MergeOptions(ema_decay=0.5)).item() == pytest.approx(5.0)
    assert merge_tensors("ema", None, models, MergeOptions(ema_decay=1.0)).item() == pytest.approx(7.0)


@pytest.mark.parametrize("t", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_slerp_keeps_the_norm_and_divides_the_angle(t: float) -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.randn(20, 30, generator=generator), torch.randn(20, 30, generator=generator)
    second *= first.norm() / second.norm()
    merged = slerp(first, second, t)
    assert merged.norm().item() == pytest.approx(first.norm().item(), rel=1e-5)
    cosine = torch.nn.functional.cosine_similarity(first.flatten(), second.flatten(), 0).item()
    from_first = torch.nn.functional.cosine_similarity(first.flatten(), merged.flatten(), 0).clamp(max=1).item()
    assert math.acos(from_first) == pytest.approx(t * math.acos(cosine), abs=1e-3)
    assert t in (0.0, 1.0) or (merged - torch.lerp(first, second, t)).norm() > 1, "it must not be the linear mix"


@pytest.mark.parametrize("second", [torch.tensor([1.0, 1e-3]), torch.tensor([-2.0, 0.0]), torch.zeros(2)])
def test_slerp_without_an_arc_is_linear(second: torch.Tensor) -> None:
    first = torch.tensor([1.0, 0.0])
    torch.testing.assert_close(slerp(first, second, 0.25), 0.75 * first + 0.25 * second)


def test_inner_product_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = torch.arange(10.0).view(2, 5), torch.ones(2, 5)
    monkeypatch.setattr(norms, "CHUNK", 3)
    assert norms.inner_product(a, b) == 45.0
    assert norms.norm(torch.tensor([3.0, 4.0])) == 5.0


def test_every_method_is_declared_and_merges() -> None:
    assert set(READS) == set(METHODS)
    pair = [torch.ones(2), torch.tensor([1.0, 3.0])]
    for method in METHODS:
        assert merge_tensors(method, torch.zeros(2), pair, MergeOptions()).shape == (2,)


@pytest.mark.parametrize(
    ("method", "count", "has_base", "options", "words"),
    [
        ("tise", 2, True, {}, ["--method tise", "'ties'"]),
        ("ties", 2, False, {}, ["--method ties", "--base"]),
        ("task_arithmetic", 2, False, {}, ["--base"]),
        ("slerp", 3, False, {}, ["exactly 2", "3"]),
        ("ties", 2, True, {"density": 0.0}, ["--density 0.0", "above 0"]),
        ("ties", 2, True, {"density": 1.5}, ["--density 1.5"]),
        ("ties", 2, True, {"density": math.nan}, ["--density nan"]),
        ("ties", 2, True, {"weights": (1.0,)}, ["--weights", "1 given for 2"]),
        ("linear", 2, False, {"weights": (1.0, -1.0)}, ["--weights -1.0"]),
        ("linear", 2, False, {"weights": (0.0, 0.0)}, ["--weights", "all are 0"]),
        ("ties", 2, True, {"scale": math.inf}, ["--lambda inf"]),
        ("slerp", 2, False, {"t": 1.5}, ["--t 1.5"]),
        ("ema", 2, False, {"ema_decay": 0.0}, ["--ema-decay 0.0"]),
        ("linear", 2, False, {"density": 0.3}, ["--density", "linear", "--weights"]),
        ("ema", 2, False, {"weights": (1.0, 2.0)}, ["--weights", "--ema-decay"]),
        ("linear", 0, False, {}, ["--models"]),
    ],
)
def test_bad_options_name_value_and_remedy(
    method: str, count: int, has_base: bool, options: dict, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        check_options(method, count, has_base, MergeOptions(**options))
    assert all(word in str(caught.value) for word in words), str(caught.value)
