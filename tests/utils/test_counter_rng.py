from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from support.chi_square import chi_square

from megatron_mmbert.utils.counter_rng import (
    hash64,
    hash_on,
    key64,
    keyed_order,
    stream64,
    string_key,
    to_below,
    to_unit,
)


def test_stream_is_splitmix64() -> None:
    # The reference vector of splitmix64 for seed 1234567.
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    assert stream64(np.array(1234567, dtype=np.uint64), np.arange(4)).tolist() == expected


def test_hashes_are_the_same_for_ever() -> None:
    assert key64(1, 2, 3) == int(hash64(np.array([1]), 2, np.array(3))[0])
    assert key64(-1) == key64(2**64 - 1)
    assert len({key64(1, 2), key64(2, 1), key64(1, 2, 0), key64(3)}) == 4
    assert string_key("srp_Cyrl") == int.from_bytes(bytes.fromhex("cd74233359540105"), "little")  # b2sum -l 64
    assert key64(1, 2, 3) == 16914669369030367833


def test_hashing_on_is_hashing_all() -> None:
    parts = np.arange(50)
    assert (hash_on(hash64(parts, 4), 7 * parts) == hash64(parts, 4, 7 * parts)).all()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=300))
@settings(deadline=None)
def test_keyed_order(keys: list[int]) -> None:
    array = np.array(keys, dtype=np.uint64)
    order = keyed_order(array)
    assert sorted(order.tolist()) == list(range(len(keys)))
    high = array[order] >> np.uint64(9)  # 300 positions need nine bits
    assert (high[1:] >= high[:-1]).all()


def test_numbers_from_words_are_uniform() -> None:
    stream = stream64(hash64(3), np.arange(200_000))
    assert chi_square(np.bincount(to_below(stream, 7))) < 6 + 5 * np.sqrt(12)
    assert chi_square(np.bincount((to_unit(stream) * 16).astype(int))) < 15 + 5 * np.sqrt(30)
    extremes = np.array([0, 2**64 - 1], dtype=np.uint64)
    assert to_below(extremes, 1000).tolist() == [0, 999]
    assert to_unit(extremes)[0] == 0.0 and to_unit(extremes)[1] < 1.0
