from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import lognormal_lengths

from megatron_mmbert.data.loading.packing import _best_fit, pack_block
from megatron_mmbert.data.sampling.examples import ExampleTable


def sample_lengths(max_length: int, total: int, median: float, seed: int = 0) -> np.ndarray:
    """Return sample lengths of about ``total`` tokens of web documents, shuffled."""
    table = ExampleTable(lognormal_lengths(60_000, median, seed=seed), max_length)
    order = np.random.default_rng(seed).permutation(table.examples)
    _, start, stop = table.locate(order)
    lengths = stop - start + 2
    return lengths[: int(np.searchsorted(np.cumsum(lengths), total))]


def fill(lengths: np.ndarray, capacity: int) -> float:
    return float(lengths.sum() / (len(pack_block(lengths, capacity, 1)) * capacity))


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(50, 200), st.integers(0, 2**64 - 1))
@settings(max_examples=150, deadline=None)
def test_every_sample_once_and_no_pack_too_full(lengths: list[int], capacity: int, key: int) -> None:
    array = np.array(lengths, dtype=np.int64)
    packs = pack_block(array, capacity, key)
    assert sorted(np.concatenate([*packs, np.array([], dtype=np.int64)]).tolist()) == list(range(len(lengths)))
    assert all(len(pack) and array[pack].sum() <= capacity and (np.diff(pack) > 0).all() for pack in packs)
    again = pack_block(array, capacity, key)
    assert [pack.tolist() for pack in again] == [pack.tolist() for pack in packs]
    # No worse than best fit decreasing, and so within 22 % (11/9) of the best possible, plus one pack.
    assert len(packs) <= 11 / 9 * max(1, -(-array.sum() // (capacity - 0))) * (capacity / (capacity - 49)) + 1


@pytest.mark.parametrize("max_length, capacity", [(1024, 8192), (1024, 16_384), (1024, 49_152), (8192, 49_152)])
@pytest.mark.parametrize("median", [150, 400, 1500])
def test_packs_are_99_percent_full(max_length: int, capacity: int, median: float) -> None:
    for blocks, packs in ((1, 256), (2, 64)):
        lengths = sample_lengths(max_length, packs * capacity - capacity // 3, median, seed=blocks)
        assert fill(lengths, capacity) >= 0.99


def test_large_samples_fall_back_to_best_fit() -> None:
    lengths = np.random.default_rng(0).integers(2500, 8193, 2000)
    packs = pack_block(lengths, 16_384, 0)
    best_fit = max(_best_fit(np.sort(lengths)[::-1].tolist(), 16_384)) + 1
    assert len(packs) <= best_fit
    assert fill(lengths, 16_384) > 0.95


def test_packs_are_alike() -> None:
    """Attention costs the sum of squared lengths: nearly the same in every pack, unlike in best fit decreasing."""
    lengths = sample_lengths(8192, 128 * 49_152 - 10_000, 600)
    cost = [float((lengths[pack] ** 2).sum()) for pack in pack_block(lengths, 49_152, 0)]
    sorted_lengths = np.sort(lengths)[::-1]
    pack_of = np.array(_best_fit(sorted_lengths.tolist(), 49_152))
    other = np.bincount(pack_of, weights=sorted_lengths.astype(np.float64) ** 2)
    assert max(cost) / np.mean(cost) < 1.1
    assert np.std(cost) < np.std(other) / 5


def test_the_key_orders_the_packs_only() -> None:
    lengths = sample_lengths(1024, 64 * 8192, 300)
    one, other = pack_block(lengths, 8192, 1), pack_block(lengths, 8192, 2)
    assert sorted(pack.tolist() for pack in one) == sorted(pack.tolist() for pack in other)
    assert [pack.tolist() for pack in one] != [pack.tolist() for pack in other]


def test_fill_does_not_follow_the_index_in_the_block() -> None:
    lengths = np.random.default_rng(0).integers(2500, 8193, 2000)  # packs of unlike fill
    emptiest = []
    for key in range(40):
        fills = [int(lengths[pack].sum()) for pack in pack_block(lengths, 16_384, key)]
        emptiest.append(int(np.argmin(fills)))
    assert np.ptp(emptiest) > len(fills) / 2


def test_a_sample_longer_than_a_pack_is_refused() -> None:
    with pytest.raises(ValueError, match="129 tokens"):
        pack_block(np.array([5, 129]), 128, 0)
    assert pack_block(np.array([], dtype=np.int64), 128, 0) == []
