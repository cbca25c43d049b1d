"""A step's numbers, for tests of what is done with them."""

from __future__ import annotations

from megatron_mmbert.train.metrics import StepMetrics


def step_metrics(step: int, loss: float = 3.25) -> StepMetrics:
    """Step ``step`` of ten steps of 512 tokens, half a second each."""
    return StepMetrics(
        phase="first",
        step=step,
        phase_tokens=512 * step,
        goal_tokens=5120,
        total_tokens=512 * step,
        loss=loss,
        lr=1e-3,
        mask_ratio=0.3,
        temperature=0.7,
        step_tokens=512,
        seconds=0.5,
        data_seconds=0.0,
        mfu=0.1,
    )
