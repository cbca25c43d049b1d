"""Tables computed by hand for the learning rate, and exact step counts for the batch ramp."""

from __future__ import annotations

from collections import Counter
from typing import Any, get_args

import pytest

from megatron_mmbert.config.phase import Decay
from megatron_mmbert.optim.schedule import DECAYS, BatchRamp, LRSchedule, batch_at, lr_at, steps_for

BILLION = 10**9


def decay_phase(decay: str, final: float) -> LRSchedule:
    return LRSchedule(8e-4, 0, 100, 400, decay, final)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [(0, 0.0), (3 * BILLION // 4, 2e-4), (3 * BILLION, 8e-4), (200 * BILLION, 8e-4), (400 * BILLION, 8e-4)],
)
def test_warmup_and_plateau_of_mmbert_base(tokens: int, expected: float) -> None:
    assert lr_at(tokens, LRSchedule(8e-4, 3 * BILLION, 0, 400 * BILLION)) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("tokens", "sqrt_multiplier", "linear_multiplier"),
    [
        (299, 1.0, 1.0),
        (300, 1.0, 1.0),
        (301, 0.02 + 0.98 * 0.9, 1 - 0.01 * 0.96),  # x = 0.01: 1 − sqrt x = 0.9
        (325, 0.02 + 0.98 * 0.5, 1 - 0.25 * 0.96),
        (364, 0.02 + 0.98 * 0.2, 1 - 0.64 * 0.96),
        (400, 0.02, 0.04),
        (10_000, 0.02, 0.04),
    ],
)
def test_both_decays(tokens: int, sqrt_multiplier: float, linear_multiplier: float) -> None:
    assert lr_at(tokens, decay_phase("one_minus_sqrt", 0.02)) == pytest.approx(8e-4 * sqrt_multiplier, rel=1e-12)
    assert lr_at(tokens, decay_phase("linear", 0.04)) == pytest.approx(8e-4 * linear_multiplier, rel=1e-12)


def test_every_decay_of_the_recipe_has_a_shape_from_1_to_its_end() -> None:
    assert set(DECAYS) == set(get_args(Decay))
    for shape in DECAYS.values():
        assert (shape(0.0, 0.02), shape(1.0, 0.02)) == (1.0, pytest.approx(0.02, rel=1e-12))
        values = [shape(x / 100, 0.02) for x in range(101)]
        assert values == sorted(values, reverse=True)


def test_warmup_may_touch_the_decay() -> None:
    schedule = LRSchedule(1.0, 50, 50, 100, "linear", 0.0)
    assert [lr_at(t, schedule) for t in (0, 25, 50, 75, 100)] == [0.0, 0.5, 1.0, 0.5, 0.0]


def walk(ramp: BatchRamp, phase_tokens: int) -> list[int]:
    """The sizes of the steps of a phase, by simulation."""
    sizes, tokens = [], 0
    while tokens < phase_tokens:
        sizes.append(batch_at(tokens, ramp))
        tokens += sizes[-1] * ramp.tokens_per_pack
    return sizes


def test_each_size_below_full_gets_exactly_the_same_steps() -> None:
    """7 steps at each of 1…11: 7 · (1 + … + 11) · 100 tokens, then full."""
    ramp = BatchRamp(1, 12, 7 * 66 * 100, 100)
    sizes = walk(ramp, 7 * 66 * 100 + 5 * 1200)
    assert sizes == sorted(sizes)
    assert Counter(sizes) == {**{size: 7 for size in range(1, 12)}, 12: 5}


def test_full_size_starts_when_the_ramp_tokens_are_seen() -> None:
    ramp = BatchRamp(8, 96, 60 * BILLION, 49_152, increment_packs=8)
    assert batch_at(0, ramp) == 8
    assert batch_at(60 * BILLION - 1, ramp) == 88
    assert batch_at(60 * BILLION, ramp) == 96
    assert {size % 8 for size, _ in ramp.stages()} == {0}
    # Size 8 of 8·(1 + … + 11) = 528 ends at 8/528 of the tokens.
    assert batch_at(60 * BILLION // 66, ramp) == 8 and batch_at(60 * BILLION // 66 + 1, ramp) == 16


@pytest.mark.parametrize("ramp_tokens", [1, 999, 46_200, 46_199, 50_001, 123_457])
def test_uneven_ramps_differ_by_one_step_at_most_and_are_counted_ahead(ramp_tokens: int) -> None:
    ramp = BatchRamp(1, 12, ramp_tokens, 100)
    for phase_tokens in (1, 40_000, 200_000):
        assert steps_for(phase_tokens, ramp) == len(walk(ramp, phase_tokens))
    counts = [Counter(walk(ramp, 200_000))[size] for size in range(1, 12)]
    assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("ramp", [BatchRamp(1, 12, 0, 100), BatchRamp(12, 12, 5000, 100)])
def test_no_ramp(ramp: BatchRamp) -> None:
    assert set(walk(ramp, 10_000)) == {12}
    assert steps_for(10_000, ramp) == 9


LR = {"peak_lr": 1e-3, "warmup_tokens": 10, "decay_tokens": 20, "phase_tokens": 100}
RAMP = {"start_packs": 2, "full_packs": 8, "ramp_tokens": 100, "tokens_per_pack": 10}


@pytest.mark.parametrize(
    ("kind", "base", "change"),
    [
        (LRSchedule, LR, {"peak_lr": 0.0}),
        (LRSchedule, LR, {"peak_lr": float("nan")}),
        (LRSchedule, LR, {"warmup_tokens": -1}),
        (LRSchedule, LR, {"decay_tokens": 91}),
        (LRSchedule, LR, {"phase_tokens": 0}),
        (LRSchedule, LR, {"decay": "cosine"}),
        (LRSchedule, LR, {"final_lr_ratio": 1.1}),
        (BatchRamp, RAMP, {"start_packs": 0}),
        (BatchRamp, RAMP, {"full_packs": 1}),
        (BatchRamp, RAMP, {"ramp_tokens": -5}),
        (BatchRamp, RAMP, {"tokens_per_pack": 0}),
        (BatchRamp, RAMP, {"increment_packs": 0}),
    ],
)
def test_bad_values_are_named(kind: Any, base: dict[str, Any], change: dict[str, Any]) -> None:
    kind(**base)
    ((field, value),) = change.items()
    with pytest.raises(ValueError) as caught:
        kind(**{**base, **change})
    assert f"{kind.__name__}.{field}={value!r}: " in str(caught.value)
