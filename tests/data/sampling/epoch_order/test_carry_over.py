from __future__ import annotations

import numpy as np
import pytest
from support.synthetic_source import lognormal_lengths

from megatron_mmbert.data.sampling.epoch_order.carry_over import CarryOver
from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.data.sampling.settings import ResumePoint
from megatron_mmbert.utils.counter_rng import key64


@pytest.mark.parametrize("max_length", [64, 200, 20])
def test_what_is_left_of_two_classes(max_length: int) -> None:
    """Together with what the earlier phase has read of them, every id once, in samples that fit."""
    lengths = [lognormal_lengths(40, 100, seed=1), lognormal_lengths(7, 300, seed=2)]
    places = [ResumePoint(0, 0, 11, 64, 0), ResumePoint(3, 2, 25, 64, 0)]
    keys = [key64(1), key64(2)]
    rest = CarryOver([4, 1], places, keys, lengths, max_length)
    whole = [LengthSorted(each.copy(), np.zeros(1, dtype=int), 64) for each in lengths]
    slots = -(-62 // (max_length - 2))
    stop = np.full(6, 9)
    stop[4], stop[1] = (slots * (table.pieces - place.piece) for table, place in zip(whole, places, strict=True))
    middle = stop // 3
    parts = [rest.samples(np.zeros(6, dtype=np.int64), middle), rest.samples(middle, stop + 50)]
    for which, group in enumerate((4, 1)):
        times = [np.zeros(n, dtype=int) for n in lengths[which]]
        counts = np.array([places[which].piece])
        pieces, key = np.array([whole[which].pieces]), np.array([keys[which]], dtype=np.uint64)
        early = whole[which].locate(
            stratified_permutation(np.arange(counts[0]), pieces, key, counts), np.zeros(1, int), counts
        )
        for document, start, end in zip(*(c.tolist() for c in early), strict=True):
            times[document][start:end] += 1
        for found in parts:
            mine = found.group == group
            assert ((found.stop - found.start)[mine] <= max_length - 2).all() and (found.stop > found.start).all()
            for document, start, end in zip(*(c[mine].tolist() for c in found[2:]), strict=True):
                times[document][start:end] += 1
        assert (np.concatenate(times) == 1).all()
    assert not set(np.concatenate([found.group for found in parts]).tolist()) - {1, 4}
