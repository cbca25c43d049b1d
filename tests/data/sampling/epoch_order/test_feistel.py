from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chi_square import chi_square

from megatron_mmbert.data.sampling.epoch_order.feistel import MAX_PERMUTED, permute, sides
from megatron_mmbert.utils.counter_rng import hash64

words = st.integers(0, 2**64 - 1)


def test_images_are_the_same_for_ever() -> None:
    assert permute(np.arange(3), 10**9, hash64(9)).tolist() == [294019033, 751190463, 303116624]


@given(st.integers(1, MAX_PERMUTED))
@settings(deadline=None)
def test_grids_hold_the_domain_and_less_than_a_row_more(size: int) -> None:
    rows, columns = (int(side) for side in sides(size))
    assert size <= rows * columns < size + rows
    assert rows <= 2**16 and columns <= rows + 1


@given(st.integers(1, 400) | st.integers(16_000, 17_000), words)
@settings(max_examples=60, deadline=None)
def test_is_a_bijection_of_any_size(size: int, key: int) -> None:
    image = permute(np.arange(size), size, np.array(key, dtype=np.uint64))
    assert sorted(image.tolist()) == list(range(size))


@given(st.lists(st.tuples(st.integers(1, MAX_PERMUTED), words, words), min_size=1, max_size=30))
@settings(max_examples=40, deadline=None)
def test_elements_may_have_their_own_size_and_key(rows: list[tuple[int, int, int]]) -> None:
    size = np.array([n for n, _, _ in rows])
    index = np.array([x % n for n, x, _ in rows])
    key = np.array([k for _, _, k in rows], dtype=np.uint64)
    together = permute(index, size, key)
    assert ((together >= 0) & (together < size)).all()
    alone = [int(permute(index[i : i + 1], int(size[i]), key[i])[0]) for i in range(len(rows))]
    assert together.tolist() == alone


@pytest.mark.parametrize("size", [2, 3, 5, 8, 16, 17, 60])
def test_all_small_permutations_are_equally_likely(size: int) -> None:
    keys = hash64(7, np.arange(100_000))
    images = np.stack([permute(np.full(len(keys), x), size, keys) for x in range(min(size, 3 if size < 60 else 2))])
    codes = np.zeros(len(keys), dtype=np.int64)
    for row in images:
        codes = codes * size + row
    counts = np.unique(codes, return_counts=True)[1]
    orders = int(np.prod(np.arange(size, size - len(images), -1)))
    assert len(counts) == orders
    assert chi_square(counts) < orders + 5 * np.sqrt(2 * orders)


def test_elements_of_a_run_share_size_and_key() -> None:
    size, key, counts = np.array([40, 7, 9000]), hash64(np.arange(3)), np.array([5, 0, 3])
    index = np.array([0, 8, 39, 3, 2, 8999, 0, 77])
    alone = [int(permute(np.array([x]), int(n), k)[0]) for x, n, k in
             zip(index, np.repeat(size, counts), np.repeat(key, counts), strict=True)]  # fmt: skip
    assert permute(index, size, key, counts).tolist() == alone
    with pytest.raises(ValueError, match="the most is"):
        permute(index, MAX_PERMUTED + 1, key[0])


@pytest.mark.parametrize("size", [45_000 * 45_000, MAX_PERMUTED, 3_000_000_017, 10**6])
@pytest.mark.parametrize("index", [0, 1, 123_456])
def test_sides_that_do_not_divide_the_words_of_a_round(size: int, index: int) -> None:
    """A round's shift takes some values of [0, side) more often than others; the image of one element shows it in
    neither coordinate. Nor do two neighbours: their distance is as likely to be any."""
    keys = hash64(11, index, np.arange(400_000))
    image = permute(np.full(len(keys), index), size, keys)
    columns = int(sides(size)[1])
    far = (permute(np.full(len(keys), index + 1), size, keys) - image) % size
    for coordinate in (image // columns, image % columns, far // columns, far % columns):
        counts = np.bincount(coordinate)[:-1]  # the last row is not full
        assert chi_square(counts) < len(counts) + 5 * np.sqrt(2 * len(counts))


def test_neighbours_part_and_keys_are_unrelated() -> None:
    size = 100_000
    first = permute(np.arange(size), size, hash64(1))
    second = permute(np.arange(size), size, hash64(2))
    for other in (second, np.roll(first, 1), np.arange(size)):
        assert abs(np.corrcoef(first, other)[0, 1]) < 5 / np.sqrt(size)
    assert (first == second).sum() < 12  # Poisson with mean 1
    gaps = np.bincount(np.diff(first) % size // (size // 20), minlength=20)
    assert chi_square(gaps[:20]) < 19 + 5 * np.sqrt(38)
