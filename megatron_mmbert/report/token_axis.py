"""The horizontal axis of a run: its phases one after the other, alternatives of one stage in one place.

Each stage is drawn in proportion to its tokens, but at least so wide that it can be read: in mmBERT's recipe the decay
is three per cent of all tokens. The ticks give the true counts.
"""

from __future__ import annotations

import itertools
import os
from dataclasses import dataclass

import numpy as np

from megatron_mmbert.report.run_reader import Float64s, PhaseRun, Run
from megatron_mmbert.report.style import short_count

_MIN_WIDTH = 0.28  # of the whole axis
_WIDE = 0.33  # a stage this wide gets a tick in its middle


@dataclass(frozen=True)
class StageSpan:
    """The span of a stage on the axis: ``left`` to ``right`` in [0, 1] for ``goal`` tokens from ``start`` on."""

    phases: list[PhaseRun]
    left: float
    right: float
    start: float
    goal: float

    def place(self, phase_tokens: Float64s) -> Float64s:
        """Return horizontal positions of counts of the phase's tokens."""
        return self.left + (self.right - self.left) * phase_tokens / self.goal

    @property
    def title(self) -> str:
        """The phase's name; ``decay: eng, cont, all`` for alternatives."""
        names = [phase.name for phase in self.phases]
        common = os.path.commonprefix(names)  # noqa: RUF071 - of names, not of paths
        if len(names) == 1 or not common.rstrip("_-."):
            return ", ".join(names)
        return f"{common.rstrip('_-.')}: {', '.join(name.removeprefix(common) or name for name in names)}"


def token_axis(run: Run) -> list[StageSpan]:
    """Return the stages that have steps, left to right."""
    stages = [[phase for phase in stage if phase.steps] for stage in run.stages()]
    stages = [stage for stage in stages if stage]
    goals = [max(max(phase.goal_tokens, phase.curves["phase_tokens"][-1]) for phase in stage) for stage in stages]
    widths = np.maximum(np.array(goals) / max(sum(goals), 1), _MIN_WIDTH)
    edges = np.concatenate([[0.0], np.cumsum(widths)]) / max(widths.sum(), _MIN_WIDTH)
    return [
        StageSpan(stage, float(left), float(right), min(phase.start_tokens for phase in stage), float(goal))
        for stage, left, right, goal in zip(stages, edges[:-1], edges[1:], goals, strict=True)
    ]


def ticks(stages: list[StageSpan]) -> tuple[list[float], list[str]]:
    """Return positions and labels of the ticks: the ends of the stages, and the middle of wide ones."""
    places, labels = [], []
    for number, stage in enumerate(stages):
        if number == 0:
            places.append(stage.left)
            labels.append(short_count(stage.start))
        if stage.right - stage.left > _WIDE:
            places.append((stage.left + stage.right) / 2)
            labels.append(short_count(stage.start + stage.goal / 2))
        places.append(stage.right)
        labels.append(short_count(stage.start + stage.goal))
    return places, labels


def smooth(values: Float64s, span: int) -> Float64s:
    """Return the mean over the ``span`` steps around each one, near the ends fewer, as many on both sides, so that the
    line neither lags nor bends there. Steps that are no number are passed over."""
    finite = np.isfinite(values)
    totals = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    at = np.arange(len(values))
    half = np.minimum(span // 2, np.minimum(at, len(values) - 1 - at))
    low, high = at - half, at + half + 1
    number = counts[high] - counts[low]
    return np.where(number > 0, (totals[high] - totals[low]) / np.maximum(number, 1), np.nan)


def last_mean(values: Float64s, share: float = 0.05) -> float:
    """Return the mean over the last ``share`` of the steps, those left out that are no number."""
    last = values[-max(1, round(share * len(values))) :]
    last = last[np.isfinite(last)]
    return float(last.mean()) if len(last) else float("nan")


def thin(x: Float64s, y: Float64s, limit: int = 1500) -> tuple[Float64s, Float64s]:
    """Return about ``limit`` points at most that keep every peak: the lowest and highest of each run of neighbours."""
    if len(y) <= limit:
        return x, y
    edges = np.linspace(0, len(y), limit // 2 + 1).astype(int)
    chosen = [
        at
        for low, high in itertools.pairwise(edges)
        for at in sorted({low + int(np.argmin(y[low:high])), low + int(np.argmax(y[low:high]))})
    ]
    return x[chosen], y[chosen]
