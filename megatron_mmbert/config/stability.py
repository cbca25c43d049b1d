"""The recipe's ``numbers``: bad losses and gradients, and slow ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from megatron_mmbert.config.base import Section


class StabilityConfig(Section):
    """What is done about losses and gradients that are not finite, and about loss spikes.

    ``skip`` leaves the step out and goes on behind its samples; ``rewind`` also takes weights and optimizer back to the
    newest checkpoint; ``stop`` ends the run with one sentence; ``report`` only says so.
    """

    on_non_finite: Literal["skip", "rewind", "stop"] = "skip"
    on_spike: Literal["report", "skip", "rewind", "stop"] = "report"
    spike_threshold: Annotated[float, Field(gt=0)] = 10.0
    """Spreads (1.48 median absolute deviations) above the median of the recent losses."""
    spike_window: Annotated[int, Field(ge=4)] = 128
    """How many losses are looked back on."""
    most_in_a_row: Annotated[int, Field(gt=0)] = 10
    """After so many bad steps one after another the run stops: they are no accident."""
    slow_rank: Annotated[float, Field(gt=1)] = 1.5
    """A rank whose own work takes this many times the median's is named in the log."""
    deterministic: bool = False
    """On GPUs too the same recipe, layout and devices give the same bits: attention engines in a fixed order, and no
    kernel that adds in the order its threads come. Slower."""
