"""Linear, SLERP, task arithmetic and the exponentially weighted mix, by hand-computed values and by properties."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from megatron_mmbert.config.merge import METHODS, MergeOptions
from megatron_mmbert.merge import methods
from megatron_mmbert.merge.methods import FUNCTIONS, ema_weights, merge_tensor, slerp
from megatron_mmbert.merge.request import MergeRequest
from megatron_mmbert.utils.errors import UserError


def test_linear_divides_by_the_sum_of_the_weights() -> None:
    models = [torch.tensor([1.0, 2.0]), torch.tensor([5.0, -2.0])]
    assert merge_tensor("linear", None, models, MergeOptions()).tensor.tolist() == [3.0, 0.0]
    assert merge_tensor("linear", None, models, MergeOptions(weights=(3.0, 1.0))).tensor.tolist() == [2.0, 1.0]
    assert merge_tensor("linear", None, models, MergeOptions(weights=(0.0, 7.0))).tensor.tolist() == [5.0, -2.0]


def test_task_arithmetic_sums_task_vectors() -> None:
    base, models = torch.tensor([1.0, 1.0]), [torch.tensor([2.0, 1.0]), torch.tensor([1.0, 4.0])]
    assert merge_tensor("task_arithmetic", base, models, MergeOptions()).tensor.tolist() == [2.0, 4.0]
    options = MergeOptions(weights=(2.0, 1.0), scale=0.5)
    assert merge_tensor("task_arithmetic", base, models, options).tensor.tolist() == [2.0, 2.5]


def test_ema_weighs_the_newest_most() -> None:
    assert ema_weights(3, 0.5) == pytest.approx((1 / 7, 2 / 7, 4 / 7))
    models = [torch.tensor([7.0]), torch.tensor([14.0]), torch.tensor([0.0])]
    assert merge_tensor("ema", None, models, MergeOptions(ema_decay=0.5)).tensor.item() == pytest.approx(5.0)
    assert merge_tensor("ema", None, models, MergeOptions(ema_decay=1.0)).tensor.item() == pytest.approx(7.0)


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
    monkeypatch.setattr(methods, "CHUNK", 3)
    assert methods.inner_product(a, b) == 45.0
    assert methods.norm(torch.tensor([3.0, 4.0])) == 5.0


def test_every_method_is_declared_and_merges() -> None:
    assert set(FUNCTIONS) == set(METHODS)
    pair = [torch.ones(2), torch.tensor([1.0, 3.0])]
    for method in METHODS:
        assert merge_tensor(method, torch.zeros(2), pair, MergeOptions()).tensor.shape == (2,)


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
        paths = tuple(Path(str(number)) for number in range(count))
        MergeRequest(method, Path("base") if has_base else None, paths, MergeOptions(**options)).check()
    assert all(word in str(caught.value) for word in words), str(caught.value)
