"""Learning rate and batch size as pure functions of the tokens seen, so that a resumed run needs no schedule state.

Both count real (non-pad) tokens seen in the phase BEFORE the step they are asked for (as Composer, the trainer
of mmBERT, does). Formulas: the six mmBERT configs, ModernBERT ``src/scheduler.py`` and ``src/sequence_packer.py``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from megatron_mmbert.config.phase import Decay


def _one_minus_sqrt(x: float, final: float) -> float:
    return final + (1.0 - final) * (1.0 - math.sqrt(x))


def _linear(x: float, final: float) -> float:
    return 1.0 - x * (1.0 - final)


DECAYS: dict[Decay, Callable[[float, float], float]] = {"one_minus_sqrt": _one_minus_sqrt, "linear": _linear}
"""Learning rate over its peak at the share ``x`` in [0, 1] of a decay that ends at ``final``. A new shape is a function
here and its name in :data:`megatron_mmbert.config.phase.Decay`."""


def _require(ok: bool, owner: object, field: str, remedy: str) -> None:
    if not ok:
        raise ValueError(f"{type(owner).__name__}.{field}={getattr(owner, field)!r}: {remedy}")


@dataclass(frozen=True)
class LRSchedule:
    """Warmup, plateau and decay of one phase (a trapezoid).

    Attributes:
        peak_lr: the plateau's learning rate.
        warmup_tokens: length of the linear rise from 0 at the start of the phase; 0 for none.
        decay_tokens: length of the decay at the END of the phase; 0 for none.
        phase_tokens: length of the phase.
        decay: shape of the decay.
        final_lr_ratio: f = final rate / peak rate, in [0, 1].

    Raises:
        ValueError: a value out of range; the sentence names field, value and remedy.
    """

    peak_lr: float
    warmup_tokens: int
    decay_tokens: int
    phase_tokens: int
    decay: Decay = "one_minus_sqrt"
    final_lr_ratio: float = 0.02

    def __post_init__(self) -> None:
        _require(math.isfinite(self.peak_lr) and self.peak_lr > 0, self, "peak_lr", "give a rate above 0, e.g. 8e-4")
        _require(self.phase_tokens > 0, self, "phase_tokens", "give the tokens of the phase, 1 or more")
        _require(self.warmup_tokens >= 0, self, "warmup_tokens", "give 0 for no warmup, or more")
        _require(self.decay_tokens >= 0, self, "decay_tokens", "give 0 for no decay, or more")
        _require(0 <= self.final_lr_ratio <= 1, self, "final_lr_ratio", "give final / peak rate, between 0 and 1")
        _require(self.decay in DECAYS, self, "decay", f"choose one of {', '.join(DECAYS)}")
        room = self.phase_tokens - self.warmup_tokens
        remedy = f"at most phase_tokens − warmup_tokens = {room} fit; shorten the warmup or the decay"
        _require(self.decay_tokens <= room, self, "decay_tokens", remedy)


def lr_multiplier(tokens: float, schedule: LRSchedule) -> float:
    """Return the learning rate over its peak, in [0, 1], for the step that begins after ``tokens`` of the phase."""
    if tokens < schedule.warmup_tokens:
        return max(tokens, 0) / schedule.warmup_tokens
    decay_start = schedule.phase_tokens - schedule.decay_tokens
    if schedule.decay_tokens == 0 or tokens <= decay_start:
        return 1.0
    x = min((tokens - decay_start) / schedule.decay_tokens, 1.0)
    return DECAYS[schedule.decay](x, schedule.final_lr_ratio)


def lr_at(tokens: float, schedule: LRSchedule) -> float:
    """Return the learning rate of the step that begins after ``tokens`` tokens of the phase."""
    return schedule.peak_lr * lr_multiplier(tokens, schedule)


@dataclass(frozen=True)
class BatchRamp:
    """Batch-size warmup in packs per step: start, start + increment, …, full.

    The sizes below full share ``ramp_tokens`` in proportion to their size, which gives each the same number of
    optimizer steps (to within one), and full size is reached when ``ramp_tokens`` tokens are seen. mmBERT on 8 devices
    walked 8, 16, … 96 packs: start 8, full 96, increment 8.

    Attributes:
        start_packs: packs per step, over all ranks, at the start.
        full_packs: the same from ``ramp_tokens`` on.
        ramp_tokens: tokens seen when the full size begins; 0 for none.
        tokens_per_pack: real tokens in one pack, for counting steps ahead.
        increment_packs: what one stage adds (the last one less, if need be); a multiple of the data-parallel size keeps
            ranks equally busy.

    Raises:
        ValueError: a value out of range; the sentence names field, value and remedy.
    """

    start_packs: int
    full_packs: int
    ramp_tokens: int
    tokens_per_pack: int
    increment_packs: int = 1

    def __post_init__(self) -> None:
        start, full = self.start_packs, self.full_packs
        _require(start >= 1, self, "start_packs", "give 1 or more")
        _require(full >= start, self, "full_packs", f"give start_packs={start} or more")
        _require(self.ramp_tokens >= 0, self, "ramp_tokens", "give 0 for no ramp, or more")
        _require(self.tokens_per_pack >= 1, self, "tokens_per_pack", "give 1 or more")
        _require(self.increment_packs >= 1, self, "increment_packs", "give 1 or more")

    def stages(self) -> list[tuple[int, int]]:
        """Return (packs per step, tokens seen at which that size ends) for each size below full."""
        sizes = range(self.start_packs, self.full_packs, self.increment_packs)
        total, seen, stages = sum(sizes), 0, []
        for size in sizes:
            seen += size
            stages.append((size, -(-self.ramp_tokens * seen // total)))
        return stages


def batch_at(tokens: int, ramp: BatchRamp) -> int:
    """Return the packs of the step that begins after ``tokens`` tokens of the phase."""
    for size, end_tokens in ramp.stages() if tokens < ramp.ramp_tokens else ():
        if tokens < end_tokens:
            return size
    return ramp.full_packs


def steps_for(phase_tokens: int, ramp: BatchRamp) -> int:
    """Return the optimizer steps until ``phase_tokens`` tokens are seen, when every pack is full."""
    tokens, steps = 0, 0
    for size, end_tokens in [*ramp.stages(), (ramp.full_packs, phase_tokens)]:
        step_tokens = size * ramp.tokens_per_pack
        count = max(0, -(-(min(end_tokens, phase_tokens) - tokens) // step_tokens))
        tokens, steps = tokens + count * step_tokens, steps + count
    return steps
