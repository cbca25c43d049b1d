from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import lognormal_lengths

from megatron_mmbert.data.sampling.epoch_order import length_strata as module
from megatron_mmbert.data.sampling.epoch_order.feistel import permute
from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.utils.counter_rng import hash64


@given(st.lists(st.integers(1, 700), min_size=1, max_size=5), st.integers(0, 2**64 - 1))
@settings(max_examples=60, deadline=None)
def test_each_example_comes_once(sizes: list[int], key: int) -> None:
    counts = np.array(sizes)
    index = np.concatenate([np.arange(n) for n in sizes])
    order = stratified_permutation(index, counts, hash64(key, np.arange(len(sizes))), counts)
    assert [sorted(part.tolist()) for part in np.split(order, np.cumsum(sizes)[:-1])] == [list(range(n)) for n in sizes]


@given(st.lists(st.integers(0, 900), min_size=1, max_size=30), st.integers(1, 9))
@settings(max_examples=60, deadline=None)
def test_every_document_is_found_again(some: list[int], times: int) -> None:
    """Stripes below and above the sizes that are sorted, and of several rows, whatever their lengths."""
    stripes = [np.array(some[: 1 + i] * (times * (1 + 20 * (i == 2)))) for i in range(min(3, len(some)))]
    lengths = np.concatenate(stripes)
    ends = np.cumsum([len(each) for each in stripes])
    table = LengthSorted(lengths.copy(), ends - [len(each) for each in stripes], 66)
    counts = np.array([int((-(-each // 64)).sum()) for each in stripes])
    assert table.examples == counts.sum()
    document, start, stop = table.locate(np.arange(table.examples), np.arange(len(stripes)), counts)
    for index, each in enumerate(stripes):
        own = slice(int(counts[:index].sum()), int(counts[: index + 1].sum()))
        seen = np.zeros(len(each), dtype=int)
        np.add.at(seen, document[own], stop[own] - start[own])
        assert seen.tolist() == each.tolist()


def runs_of(length: np.ndarray, samples: int) -> float:
    """Return the standard deviation of the mean length of runs of ``samples``, in mean lengths."""
    whole = len(length) // samples * samples
    return float(length[:whole].reshape(-1, samples).mean(axis=1).std() / length.mean())


@pytest.mark.parametrize("documents", [3000, 40_000])
def test_a_thousand_samples_weigh_as_a_thousand_means(documents: int, monkeypatch: pytest.MonkeyPatch) -> None:
    table = LengthSorted(lognormal_lengths(documents, 400), np.zeros(1, dtype=int), 1024)
    size, key, counts = np.array([table.examples]), hash64(np.array([5])), np.array([table.examples])

    def lengths() -> np.ndarray:
        order = module.stratified_permutation(np.arange(table.examples), size, key, counts)
        _, start, stop = table.locate(order, np.zeros(1, dtype=int), counts)
        return stop - start

    assert runs_of(lengths(), 1000) < 0.0025
    assert runs_of(lengths(), 37) < 0.03  # any part of a turn is spread too
    monkeypatch.setattr(module, "stratified_permutation", lambda i, n, k, c: permute(i, n, k, c))
    assert runs_of(lengths(), 1000) > 0.01  # the control: at random


def test_examples_of_a_stratum_come_at_random() -> None:
    size, counts = np.array([32_000]), np.array([32_000])
    one, other = (stratified_permutation(np.arange(32_000), size, hash64(np.array([key])), counts) for key in (1, 2))
    assert (one[:3200] // 1000 != other[:3200] // 1000).any()  # turns begin elsewhere
    for part in (one, other):
        within = part[::32] % 1000
        assert abs(np.corrcoef(within, np.arange(len(within)))[0, 1]) < 5 / np.sqrt(len(within))
    position = np.argsort(one)
    apart = np.abs(np.diff(position))  # neighbours by length, as examples of one document often are
    assert np.median(apart) > 5000
