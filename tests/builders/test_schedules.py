"""Packs of a step under data parallelism and an interleaved pipeline."""

from __future__ import annotations

import re

import pytest

from megatron_mmbert.builders.schedules import batch_ramp, empty_packs_text, step_split
from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.phase import BatchConfig, Phase
from megatron_mmbert.optim.schedule import batch_at
from megatron_mmbert.utils.errors import UserError

INTERLEAVED = ParallelConfig(pipeline=4, virtual_stages=2)


def phase(packs: int, ramp_tokens: int = 0, **batch: int) -> Phase:
    sizes = BatchConfig(tokens_per_step=packs * 128, tokens_per_micro_batch=128, ramp_tokens=ramp_tokens, **batch)
    return Phase(name="one", tokens=100_000, mask_ratio=0.3, max_length=128, lr=1e-3, batch=sizes)


def test_a_step_has_the_same_packs_for_any_number_of_ranks() -> None:
    assert {batch_ramp(phase(6), ranks).full_packs for ranks in range(1, 7)} == {6}
    grown = phase(24, 40_000, ramp_start_tokens=4 * 128, ramp_increment_tokens=4 * 128)
    assert len({tuple(batch_ramp(grown, ranks).stages()) for ranks in range(1, 25)}) == 1


def test_more_ranks_than_packs_are_refused() -> None:
    words = "makes 6 packs, too few for 7 data-parallel ranks; use at most 6, or smaller packs (batch.tokens_per_pack)"
    with pytest.raises(UserError, match=re.escape(words)):
        batch_ramp(phase(6), 7)


def test_empty_packs_are_named_with_the_nearest_ranks_that_need_none() -> None:
    def text(packs: int, ranks: int, parallel: ParallelConfig | None = None) -> str:
        of = phase(packs)
        return empty_packs_text(of, batch_ramp(of, ranks), step_split(of, ranks, parallel))

    rest = "data-parallel ranks evenly, 25% of their work is empty packs; with"
    assert text(6, 3) == ""
    assert text(6, 4) == f"phase 'one': a step of 6 packs does not fill 4 {rest} 3 or 6 ranks there are none"
    assert text(12, 2, INTERLEAVED).endswith(f"12 packs does not fill 2 {rest} 1 or 3 ranks there are none")


def test_micro_batches_that_the_recipe_leaves_open() -> None:
    batch = BatchConfig(tokens_per_step=24 * 128, tokens_per_pack=128)
    of = phase(24).model_copy(update={"batch": batch})
    assert step_split(of, 2).split(24).micro_batches == (1,) * 12
    assert step_split(of, 2, max_packs=5).split(24).micro_batches == (4, 4, 4)
    said = of.model_copy(update={"batch": BatchConfig(**{**vars(batch), "tokens_per_micro_batch": 3 * 128})})
    assert step_split(said, 2, max_packs=5).split(24).micro_batches == (3,) * 4


def test_every_size_of_a_ramp_suits_the_layout() -> None:
    ramp = batch_ramp(phase(32, ramp_tokens=40_000), 2, INTERLEAVED)
    sizes = {batch_at(tokens, ramp) for tokens in range(0, 60_000, 128)}
    assert sizes == {8, 16, 24, 32}
