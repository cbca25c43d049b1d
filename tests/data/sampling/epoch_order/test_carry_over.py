from __future__ import annotations

import numpy as np
import pytest
from support.synthetic_source import lognormal_lengths

from megatron_mmbert.data.sampling.epoch_order.carry_over import CarryOver
from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.data.sampling.settings import ResumePoint
from megatron_mmbert.utils.counter_rng import key64


@pytest.mark.parametrize("max_length", [64, 200, 20])
def test_what_is_left_of_two_stripes(max_length: int) -> None:
    """Together with what the earlier phase has read of them, every id once, in samples that fit."""
    lengths = [lognormal_lengths(40, 100, seed=1), lognormal_lengths(7, 300, seed=2)]
    points = [ResumePoint(0, 0, 11, 64, 0), ResumePoint(3, 2, 25, 64, 0)]
    keys = [key64(1), key64(2)]
    carry_over = CarryOver([4, 1], points, keys, lengths, max_length)
    whole = [LengthSorted(each.copy(), np.zeros(1, dtype=int), 64) for each in lengths]
    max_parts = -(-62 // (max_length - 2))
    stop = np.full(6, 9)
    stop[4], stop[1] = (max_parts * (table.examples - p.example) for table, p in zip(whole, points, strict=True))
    middle = stop // 3
    drawn = [carry_over.samples(np.zeros(6, dtype=np.int64), middle), carry_over.samples(middle, stop + 50)]
    for which, dataset in enumerate((4, 1)):
        times = [np.zeros(n, dtype=int) for n in lengths[which]]
        counts = np.array([points[which].example])
        examples, key = np.array([whole[which].examples]), np.array([keys[which]], dtype=np.uint64)
        early = whole[which].locate(
            stratified_permutation(np.arange(counts[0]), examples, key, counts), np.zeros(1, int), counts
        )
        for document, start, end in zip(*(c.tolist() for c in early), strict=True):
            times[document][start:end] += 1
        for samples in drawn:
            own = samples.dataset == dataset
            assert ((samples.stop - samples.start)[own] <= max_length - 2).all()
            assert (samples.stop > samples.start).all()
            for document, start, end in zip(*(c[own].tolist() for c in samples[2:]), strict=True):
                times[document][start:end] += 1
        assert (np.concatenate(times) == 1).all()
    assert not set(np.concatenate([samples.dataset for samples in drawn]).tolist()) - {1, 4}
