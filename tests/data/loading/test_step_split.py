"""Sharing out the packs of a step over ranks and micro batches."""

from __future__ import annotations

import pytest

from megatron_mmbert.data.loading.step_split import StepPacks, StepSplit


@pytest.mark.parametrize("ranks", [1, 2, 3, 7, 8, 64, 100, 512])
@pytest.mark.parametrize("max_packs", [1, 3, 8, 1000])
def test_every_pack_finds_a_place_and_few_places_stay_empty(ranks: int, max_packs: int) -> None:
    split = StepSplit(ranks, max_packs)
    for packs in (1, 5, 48, 576, 577, 1152):
        step = split.split(packs)
        assert step.total == packs and max(step.micro_batches) <= max_packs
        assert 0 <= step.per_rank * ranks - packs < ranks
        assert max(step.micro_batches) - min(step.micro_batches) <= 1
        assert split.efficiency(packs) == packs / (step.per_rank * ranks)


def test_there_are_as_few_micro_batches_as_can_be() -> None:
    assert StepSplit(1, 8).split(20) == StepPacks(20, (7, 7, 6))
    assert StepSplit(4, 8).split(64) == StepPacks(64, (8, 8))


def test_pipeline_ranks_have_micro_batches_of_one_size_and_one_each_to_work_on() -> None:
    assert StepSplit(1, 8, pipeline=4).split(20) == StepPacks(20, (5,) * 4)
    assert StepSplit(2, 8, pipeline=4).split(4) == StepPacks(4, (1, 1)), "fewer packs than pipeline ranks"
    assert StepSplit(1, 8, pipeline=2).split(13) == StepPacks(13, (1,) * 13)


def test_an_interleaved_pipeline_has_groups_of_them() -> None:
    assert StepSplit(2, 4, pipeline=4, group=4).split(12) == StepPacks(12, (2,) * 4)
    assert StepSplit(2, 4, pipeline=4, group=4).split(32) == StepPacks(32, (4,) * 4)
    for packs in range(1, 50):
        step = StepSplit(3, 5, pipeline=4, group=4).split(packs)
        assert len(step.micro_batches) % 4 == 0 and len(set(step.micro_batches)) == 1
        assert 0 <= step.per_rank * 3 - packs < 12
