"""Where a phase stands after a step: the numbers that the log line, the metrics file and TensorBoard all show."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepMetrics:
    """One step's numbers.

    Attributes:
        step: optimizer steps of the phase so far; ``phase_tokens`` real tokens of it, of ``goal_tokens``.
        total_tokens: real tokens over all phases.
        loss: mean loss per scored token of this step, nats.
        step_tokens: real tokens of this step on all ranks; ``seconds`` it took.
        mfu: achieved FLOP/s over the device's matrix-product ceiling.
        data_seconds: how long the step waited for data.
        skipped: the weights were not updated, because of bad numbers.
    """

    phase: str
    step: int
    phase_tokens: int
    goal_tokens: int
    total_tokens: int
    loss: float
    lr: float
    mask_ratio: float
    temperature: float
    step_tokens: int
    seconds: float
    data_seconds: float
    mfu: float
    skipped: bool = False

    @property
    def tokens_per_second(self) -> float:
        return self.step_tokens / self.seconds

    @property
    def fraction(self) -> float:
        """Share of the phase's tokens seen, at most 1."""
        return min(1.0, self.phase_tokens / self.goal_tokens)

    def total_steps(self) -> int:
        """Steps of the phase, if the rest is like this one."""
        left = max(0, self.goal_tokens - self.phase_tokens)
        return self.step + -(-left // self.step_tokens)
