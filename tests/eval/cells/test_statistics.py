"""Intervals and tests against what is known of them."""

from __future__ import annotations

import numpy as np
import pytest

from megatron_mmbert.eval.cells.statistics import Counts, Resampler, compare, interval, sign_flips

RNG = np.random.default_rng(5)


def counts(right: np.ndarray) -> Counts:
    return Counts(right.astype(float), np.ones(len(right)))


def test_interval_of_a_share() -> None:
    """As the normal approximation says: 1.96 standard errors on each side."""
    right = np.arange(400) < 300
    low, high = interval(Resampler().scores("x", counts(right)))
    error = 1.96 * np.sqrt(0.75 * 0.25 / 400)
    assert low == pytest.approx(0.75 - error, abs=0.006)
    assert high == pytest.approx(0.75 + error, abs=0.006)


def test_paired_examples_find_a_small_difference() -> None:
    """Two subjects that differ on the same few examples differ; of unpaired samples no one could tell."""
    base = RNG.random(500) < 0.6
    better = base.copy()
    better[np.flatnonzero(~base)[:15]] = True
    found = compare({"a": counts(better)}, {"a": counts(base)}, Resampler(), lower_is_better=False)
    assert found is not None
    assert found.finding == "better"
    assert found.difference == pytest.approx(0.03)
    assert found.low > 0
    assert found.p_languages is None
    reverse = compare({"a": counts(better)}, {"a": counts(base)}, Resampler(), lower_is_better=True)
    assert reverse is not None
    assert reverse.finding == "worse"


def test_equal_subjects_are_not_told_apart() -> None:
    """Of 100 pairs of equal subjects about one in twenty is called different."""
    told = 0
    for number in range(100):
        one, other = (counts(RNG.random(200) < 0.5) for _ in range(2))
        found = compare({f"{number}": one}, {f"{number}": other}, Resampler(), lower_is_better=False)
        assert found is not None
        told += found.finding != "no difference shown"
    assert 1 <= told <= 13


def test_signs_of_languages() -> None:
    assert sign_flips([0.1] * 5) is None
    assert sign_flips([0.1, 0.2, 0.05, 0.1, 0.3, 0.2, 0.1, 0.15]) == pytest.approx(2 / 256, abs=0.006)
    found = sign_flips([0.1, -0.2, 0.05, -0.1, 0.3, -0.2])
    assert found is not None
    assert found > 0.5


def test_only_common_languages_are_compared() -> None:
    right = np.array([True, False])
    assert compare({"a": counts(right)}, {"b": counts(right)}, Resampler(), lower_is_better=False) is None
    found = compare({"a": counts(right), "b": counts(right)}, {"b": counts(~right)}, Resampler(), lower_is_better=False)
    assert found is not None
    assert found.difference == 0


def test_nothing_to_be_right_about() -> None:
    empty = Counts(np.zeros(3), np.zeros(3))
    assert empty.score == 0
    assert not Resampler().scores("x", empty).any()
