"""From the recipe to the clocks of a phase: learning rate and batch size by tokens.

Apart from the session, which needs Megatron-Core: a plan counts steps without it.
"""

from __future__ import annotations

from megatron_mmbert.config.recipe import ParallelConfig, Phase
from megatron_mmbert.optim.schedule import BatchRamp, LRSchedule
from megatron_mmbert.utils.errors import UserError


def lr_schedule(phase: Phase) -> LRSchedule:
    """The phase's learning rate by tokens."""
    return LRSchedule(
        peak_lr=phase.lr,
        warmup_tokens=phase.schedule.warmup_tokens,
        decay_tokens=phase.schedule.decay_tokens,
        phase_tokens=phase.tokens,
        decay=phase.schedule.decay,
        final_lr_ratio=phase.schedule.final_ratio,
    )


def batch_ramp(phase: Phase, dp_size: int, parallel: ParallelConfig | None = None) -> BatchRamp:
    """The phase's micro batches per step by tokens.

    Args:
        parallel: an interleaved pipeline takes micro batches in groups of as many as it has ranks.

    Raises:
        UserError: the micro batches of a step do not divide by the data-parallel ranks, or by those groups.
    """
    group = parallel.pipeline if parallel is not None and parallel.virtual_stages > 1 else 1
    multiple = dp_size * group
    batch = phase.batch
    full = batch.tokens_per_step // batch.tokens_per_micro_batch
    start = batch.ramp_start_tokens // batch.tokens_per_micro_batch or multiple
    if not batch.ramp_tokens:
        start = full
    for name, packs in (("tokens_per_step", full), ("ramp_start_tokens", start)):
        if packs % multiple:
            pipeline = f" x {group} ranks of the interleaved pipeline" if group > 1 else ""
            raise UserError(
                f"phase {phase.name!r}: batch.{name} makes {packs} micro batches, which do not divide by {dp_size} "
                f"data-parallel ranks{pipeline}; choose a multiple of {multiple * batch.tokens_per_micro_batch} tokens"
            )
    return BatchRamp(start, full, batch.ramp_tokens, batch.tokens_per_micro_batch, multiple)
