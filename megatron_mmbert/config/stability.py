"""The recipe's ``stability`` and ``resilience`` sections: bad losses and gradients; failed, hanging and slow ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.values import within

BadStepAction = Literal["skip", "rewind", "stop"]

Seconds = Annotated[float, within(1, 1e7)]


class StabilityConfig(Section):
    """The reaction to losses and gradients that are not finite, and to loss spikes.

    ``skip`` leaves the step out and continues after its samples; ``rewind`` also takes weights and optimizer back to
    the newest checkpoint; ``stop`` ends the run with one sentence; ``report`` only says so.
    """

    on_non_finite: BadStepAction = "skip"
    """The reaction to a NaN or an infinity in the loss or a gradient."""
    on_spike: Literal["report"] | BadStepAction = "report"
    """The reaction to a loss far above the recent ones."""
    spike_threshold: Annotated[float, within(0, 1e6, above=True)] = 10.0
    """Spreads (1.48 median absolute deviations) above the median of the recent losses that make a spike."""
    spike_window: Annotated[int, within(4, 100_000)] = 128
    """Steps whose losses are the recent ones."""
    max_bad_steps: Annotated[int, within(1, 1_000_000)] = 10
    """Bad steps one after another that stop the run whatever the reaction is: they are no accident."""


class ResilienceConfig(Section):
    """The limits by which ranks watch one another."""

    failed_rank_seconds: Seconds = 60.0
    """Seconds of silence after which a rank is taken for failed; the others name it and end."""
    hang_seconds: Seconds = 1200.0
    """Seconds without progress of any rank, while all live, after which the one that hangs is named and all end.
    Longer than the first step, a save, and the start; shorter than parallel.timeout_minutes, which would name one of
    those that wait."""
    straggler_ratio: Annotated[float, within(1, 1e6, above=True)] = 1.5
    """A rank whose own work takes this many times the median's is named in the log."""
