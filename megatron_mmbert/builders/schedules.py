"""From the recipe to what a phase schedules by tokens: learning rate, batch size, weight decay.

Without Megatron-Core, so that a plan can count steps without it.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.optim.schedule import BatchRamp, LRSchedule
from megatron_mmbert.utils.errors import UserError


@dataclass(frozen=True)
class PhaseSchedules:
    """Learning rate and micro batches of each step of a phase, and its weight decay at the peak rate."""

    lr: LRSchedule
    batch: BatchRamp
    weight_decay: float


def phase_schedules(recipe: Recipe, phase: Phase, dp_size: int) -> PhaseSchedules:
    """Return the schedules of a phase.

    Raises:
        UserError: see :func:`batch_ramp`.
    """
    return PhaseSchedules(
        lr_schedule(phase), batch_ramp(phase, dp_size, recipe.parallel), weight_decay_of(recipe, phase)
    )


def weight_decay_of(recipe: Recipe, phase: Phase) -> float:
    """Return the phase's own weight decay, or the recipe's."""
    return recipe.optimizer.weight_decay if phase.weight_decay is None else phase.weight_decay


def lr_schedule(phase: Phase) -> LRSchedule:
    """Return the phase's learning rate by tokens."""
    return LRSchedule(
        peak_lr=phase.lr,
        warmup_tokens=phase.schedule.warmup_tokens,
        decay_tokens=phase.schedule.decay_tokens,
        phase_tokens=phase.tokens,
        decay=phase.schedule.decay,
        final_lr_ratio=phase.schedule.final_ratio,
    )


def batch_ramp(phase: Phase, dp_size: int, parallel: ParallelConfig | None = None) -> BatchRamp:
    """Return the phase's micro batches per step by tokens.

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
