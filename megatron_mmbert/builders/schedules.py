"""From the recipe to what a phase schedules by tokens: learning rate, packs of a step, weight decay.

Without Megatron-Core, so that a plan can count steps without it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.step_split import StepPacks, StepSplit
from megatron_mmbert.optim.schedule import BatchRamp, LRSchedule, batch_at
from megatron_mmbert.utils.errors import UserError


@dataclass(frozen=True)
class PhaseSchedules:
    """Learning rate and packs of each step of a phase, how those are split, and its weight decay at the peak rate."""

    lr: LRSchedule
    batch: BatchRamp
    split: StepSplit
    weight_decay: float

    def step_packs(self, tokens: int) -> StepPacks:
        """Return the packs of the step that begins after ``tokens`` tokens of the phase."""
        return self.split.split(batch_at(tokens, self.batch))


def phase_schedules(recipe: Recipe, phase: Phase, dp_size: int, max_packs: int | None = None) -> PhaseSchedules:
    """Return the schedules of a phase.

    Args:
        max_packs: the most packs of one micro batch where the recipe leaves it open (``auto``); None for one.

    Raises:
        UserError: see :func:`batch_ramp`.
    """
    return PhaseSchedules(
        lr_schedule(phase),
        batch_ramp(phase, dp_size, recipe.parallel),
        step_split(phase, dp_size, recipe.parallel, max_packs),
        weight_decay_of(recipe, phase),
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
    """Return the phase's packs per step by tokens.

    Args:
        parallel: an interleaved pipeline takes micro batches in groups of as many as it has ranks, and so grows the
            ramp whose start or increment the recipe leaves open.

    Raises:
        UserError: a step has fewer packs than there are data-parallel ranks, so that some would never have work.
    """
    batch = phase.batch
    full = batch.tokens_per_step // batch.pack_tokens
    if full < dp_size:
        raise UserError(
            f"phase {phase.name!r}: batch.tokens_per_step {batch.tokens_per_step} makes {full} packs, too few for "
            f"{dp_size} data-parallel ranks; use at most {full}, or smaller packs (batch.tokens_per_pack)"
        )
    multiple = min(full, dp_size * _group(parallel))
    start = batch.ramp_start_tokens // batch.pack_tokens or multiple
    increment = batch.ramp_increment_tokens // batch.pack_tokens or multiple
    return BatchRamp(start if batch.ramp_tokens else full, full, batch.ramp_tokens, batch.pack_tokens, increment)


def step_split(
    phase: Phase, dp_size: int, parallel: ParallelConfig | None = None, max_packs: int | None = None
) -> StepSplit:
    """Return how the packs of a step are shared out; ``max_packs`` as in :func:`phase_schedules`."""
    pipeline = 1 if parallel is None else parallel.pipeline
    largest = phase.batch.packs_per_micro_batch or max_packs or 1
    return StepSplit(ranks=dp_size, max_packs=largest, pipeline=pipeline, group=_group(parallel))


def empty_packs_text(phase: Phase, ramp: BatchRamp, split: StepSplit) -> str:
    """Return a sentence on the empty packs of a full step and the numbers of ranks without; "" where there are none."""
    packs = ramp.full_packs
    efficiency = split.efficiency(packs)
    if efficiency == 1:
        return ""
    best = [ranks for ranks in range(1, packs + 1) if replace(split, ranks=ranks).efficiency(packs) == 1]
    near = [max((each for each in best if each < split.ranks), default=0)]
    near.append(min((each for each in best if each > split.ranks), default=0))
    listed = " or ".join(str(each) for each in near if each)
    return (
        f"phase {phase.name!r}: a step of {packs} packs does not fill {split.ranks} data-parallel ranks evenly, "
        f"{1 - efficiency:.0%} of their work is empty packs; with {listed} ranks there are none"
    )


def _group(parallel: ParallelConfig | None) -> int:
    return parallel.pipeline if parallel is not None and parallel.virtual_stages > 1 else 1
