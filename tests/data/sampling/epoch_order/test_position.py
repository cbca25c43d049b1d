from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import MemorySource, data_phase

from megatron_mmbert.data.sampling.epoch_order.position import EpochPosition
from megatron_mmbert.data.sampling.epoch_order.stripes import divide_into_stripes
from megatron_mmbert.data.sampling.settings import ResumePoint

SOURCE = MemorySource(
    {("w", "a"): [50] * 23, ("w", "b"): [0, 130, 0, 0, 5, 200, 0, 1], ("w", "c"): [7], ("w", "d"): [400, 0, 0, 90]}
)


SMALL = {
    **{"name": "p", "tokens": 50_000, "max_length": 32},
    **{"pack_tokens": 256, "block_tokens": 1024, "min_stripe_tokens": 60},
}


def epoch_position(**more: Any) -> EpochPosition:
    phase = data_phase(**{**SMALL, **more})
    return EpochPosition(divide_into_stripes(SOURCE, phase)[0], phase)


def walk(position: EpochPosition, dataset: int, samples: int) -> list[tuple[int, int, int]]:
    """Return (epoch, stripe, example) of the first samples, one step at a time."""
    stripes = position.epochs.stripes
    point = position._points[dataset] or ResumePoint(0, 0, 0, 32, 0)
    epoch, stripe, example = point[:3]
    walked: list[tuple[int, int, int]] = []
    while len(walked) < samples:
        if example < stripes.stripe_examples[stripes.first_stripe[dataset] + stripe]:
            walked.append((epoch, stripe, example))
            example += 1
            continue
        stripe, example = stripe + 1, 0
        if stripe == stripes.stripes[dataset]:
            epoch, stripe = epoch + 1, 0
    return walked


counts = st.lists(st.integers(0, 300), min_size=4, max_size=4)


@given(counts, counts, st.booleans())
@settings(max_examples=60, deadline=None)
def test_runs_are_one_step_after_another(first: list[int], more: list[int], later: bool) -> None:
    points = {("w", "a"): ResumePoint(2, 5, 1, 32, 0), ("w", "b"): ResumePoint(1, 1, 3, 32, 0)} if later else {}
    position = epoch_position(resume_points=points)
    low, high = np.array(first), np.array(first) + np.array(more)
    read: dict[int, list[tuple[int, int, int]]] = {dataset: [] for dataset in range(4)}
    runs = zip(*(each.tolist() for each in position.runs(low, high)), strict=True)
    for dataset, epoch, stripe, example, size, sample in runs:
        assert sample == low[dataset] + len(read[dataset])
        in_dataset = stripe - int(position.epochs.stripes.first_stripe[dataset])
        read[dataset] += [(epoch, in_dataset, example + i) for i in range(size)]
    for dataset in range(4):
        assert read[dataset] == walk(position, dataset, int(high[dataset]))[low[dataset] :]


@given(st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_resume_points_are_those_of_the_next_sample(block: int) -> None:
    position = epoch_position(temperature=0.3)
    samples = position.samples_before(block)
    for dataset, name in enumerate(position.epochs.stripes.names):
        next_sample = walk(position, dataset, int(samples[dataset]) + 1)[-1]
        assert position.resume_points_at(block)[name] == (*next_sample, 32, 0)


def test_samples_and_tokens_are_each_others_inverse() -> None:
    points = {("w", "a"): ResumePoint(0, 1, 1, 9, 0), ("w", "b"): ResumePoint(0, 1, 1, 100, 0)}
    position = epoch_position(resume_points=points)
    carried = position.start.carried_samples
    assert (carried[:2] > 0).all() and position.start.samples_per_example.tolist() == [1, 4, 1, 1]
    for samples in (np.zeros(4), carried, np.array([1, 1, 0, 1]), np.array([100, 200, 300, 401])):
        np.testing.assert_allclose(position.samples_in(position.tokens_in(samples)), samples, atol=1e-9)
    many = np.stack([position.samples_in(np.full(4, tokens)) for tokens in np.linspace(0, 3000, 500)])
    assert (np.diff(many, axis=0) >= 0).all()
