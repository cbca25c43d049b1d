"""Micro batches of a step under data parallelism and an interleaved pipeline."""

from __future__ import annotations

import pytest

from megatron_mmbert.builders.schedules import batch_ramp
from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.phase import BatchConfig, Phase
from megatron_mmbert.optim.schedule import batch_at
from megatron_mmbert.utils.errors import UserError

INTERLEAVED = ParallelConfig(pipeline=4, virtual_stages=2)


def phase(packs: int, ramp_tokens: int = 0) -> Phase:
    batch = BatchConfig(tokens_per_step=packs * 128, tokens_per_micro_batch=128, ramp_tokens=ramp_tokens)
    return Phase(name="one", tokens=100_000, mask_ratio=0.3, max_length=128, lr=1e-3, batch=batch)


def test_micro_batches_divide_by_the_ranks() -> None:
    assert batch_ramp(phase(6), 3).full_micro_batches == 6
    with pytest.raises(UserError, match="makes 6 micro batches, which do not divide by 4 data-parallel ranks; choose"):
        batch_ramp(phase(6), 4)


def test_an_interleaved_pipeline_takes_them_in_groups() -> None:
    assert batch_ramp(phase(8), 2, ParallelConfig(pipeline=4)).full_micro_batches == 8
    assert batch_ramp(phase(8), 2, INTERLEAVED).full_micro_batches == 8
    words = "divide by 2 data-parallel ranks x 4 ranks of the interleaved pipeline; choose a multiple of 1024 tokens"
    with pytest.raises(UserError, match=words):
        batch_ramp(phase(12), 2, INTERLEAVED)


def test_every_size_of_a_ramp_suits_the_layout() -> None:
    ramp = batch_ramp(phase(32, ramp_tokens=40_000), 2, INTERLEAVED)
    sizes = {batch_at(tokens, ramp) for tokens in range(0, 60_000, 128)}
    assert sizes == {8, 16, 24, 32}
