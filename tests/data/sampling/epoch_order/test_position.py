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


def course(**more: Any) -> EpochPosition:
    of = {"name": "p", "tokens": 50_000, "max_length": 32, "pack_tokens": 256, "block_tokens": 1024, "class_tokens": 60}
    phase = data_phase(**{**of, **more})
    return EpochPosition(divide_into_stripes(SOURCE, phase)[0], phase)


def walk(of: EpochPosition, group: int, samples: int) -> list[tuple[int, int, int]]:
    """(epoch, class, piece) of the first samples, one step at a time."""
    division = of._division
    place = of._places[group] or ResumePoint(0, 0, 0, 32, 0)
    epoch, number, piece = place[:3]
    found = []
    while len(found) < samples:
        if piece < division.class_pieces[division.first_class[group] + number]:
            found.append((epoch, number, piece))
            piece += 1
            continue
        number, piece = number + 1, 0
        if number == division.classes[group]:
            epoch, number = epoch + 1, 0
    return found


counts = st.lists(st.integers(0, 300), min_size=4, max_size=4)


@given(counts, counts, st.booleans())
@settings(max_examples=60, deadline=None)
def test_runs_are_one_step_after_another(first: list[int], more: list[int], later: bool) -> None:
    places = {("w", "a"): ResumePoint(2, 5, 1, 32, 0), ("w", "b"): ResumePoint(1, 1, 3, 32, 0)} if later else {}
    of = course(places=places)
    low, high = np.array(first), np.array(first) + np.array(more)
    found: dict[int, list[tuple[int, int, int]]] = {group: [] for group in range(4)}
    for group, epoch, row, piece, size, sample in zip(*(each.tolist() for each in of.runs(low, high)), strict=True):
        assert sample == low[group] + len(found[group])
        number = row - int(of._division.first_class[group])
        found[group] += [(epoch, number, piece + i) for i in range(size)]
    for group in range(4):
        assert found[group] == walk(of, group, int(high[group]))[low[group] :]


@given(st.integers(0, 200))
@settings(max_examples=30, deadline=None)
def test_places_are_those_of_the_next_sample(block: int) -> None:
    of = course(temperature=0.3)
    samples = of.samples_before(block)
    for group, name in enumerate(of._division.names):
        assert of.places_at(block)[name] == (*walk(of, group, int(samples[group]) + 1)[-1], 32, 0)


def test_samples_and_tokens_are_each_others_inverse() -> None:
    places = {("w", "a"): ResumePoint(0, 1, 1, 9, 0), ("w", "b"): ResumePoint(0, 1, 1, 100, 0)}
    of = course(places=places)
    assert (of.rest_samples[:2] > 0).all() and of.rest_slots.tolist() == [1, 4, 1, 1]
    for samples in (np.zeros(4), of.rest_samples, np.array([1, 1, 0, 1]), np.array([100, 200, 300, 401])):
        np.testing.assert_allclose(of.samples_in(of.tokens_of(samples)), samples, atol=1e-9)
    many = np.stack([of.samples_in(np.full(4, tokens)) for tokens in np.linspace(0, 3000, 500)])
    assert (np.diff(many, axis=0) >= 0).all()
