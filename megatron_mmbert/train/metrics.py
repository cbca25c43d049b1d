"""The numbers of one training step, and which of them the log line, ``metrics.jsonl`` and the trackers show.

A new number is a field here and its value in :func:`megatron_mmbert.train.loop.take_step`: the metadata of the field
says where it is shown, so console, file and trackers need no change.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from typing import Any


def shown(log: str = "", track: bool = False, file: bool = True) -> dict[str, Any]:
    """Return the metadata of a field: the places where its value is shown.

    Args:
        log: format of its column in the log line, as ``"mfu {:.0%}"``; empty: no column.
        track: whether TensorBoard, W&B and MLflow get it.
        file: whether ``metrics.jsonl`` gets it.
    """
    return {"log": log, "track": track, "file": file}


@dataclass(frozen=True)
class StepMetrics:
    """One step's numbers, in the order of the log's columns and the file's keys; a flat record, so it has many fields.

    Attributes:
        step: optimizer steps of the phase so far.
        phase_tokens: real tokens of the phase so far, of ``goal_tokens``.
        total_tokens: real tokens over all phases.
        loss: mean loss per scored token of this step, nats.
        step_tokens: real tokens of this step on all ranks.
        seconds: how long the step took.
        data_seconds: how long the step waited for data.
        mfu: achieved model FLOP/s over the matrix-product peak measured on this device.
        skipped: the weights were not updated, because of a non-finite value or a loss spike.
    """

    # attributes: one for each number of a step

    phase: str
    step: int
    phase_tokens: int
    goal_tokens: int
    total_tokens: int = field(metadata=shown(track=True))
    loss: float = field(metadata=shown("loss {:.4f}", track=True))
    lr: float = field(metadata=shown("lr {:.2e}", track=True))
    mask_ratio: float = field(metadata=shown(track=True))
    temperature: float = field(metadata=shown(track=True))
    step_tokens: int
    seconds: float
    tokens_per_second: float = field(init=False, metadata=shown("{:,.0f} tok/s", track=True, file=False))
    data_seconds: float = field(metadata=shown(track=True))
    mfu: float = field(metadata=shown("mfu {:.0%}", track=True))
    skipped: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens_per_second", self.step_tokens / self.seconds)

    def columns(self) -> list[str]:
        """Return the columns of the log line."""
        return [place["log"].format(value) for _, value, place in self._values() if place["log"]]

    def to_json(self) -> dict[str, Any]:
        """Return the line of ``metrics.jsonl``."""
        return {name: json_value(value) for name, value, place in self._values() if place["file"]}

    def tracked(self) -> dict[str, float]:
        """Return the values for experiment trackers, by name."""
        return {f"train/{name}": float(value) for name, value, place in self._values() if place["track"]}

    def _values(self) -> Iterator[tuple[str, Any, Mapping[str, Any]]]:
        """Yield (name, value, places where it is shown) of every number."""
        for each in fields(self):
            yield each.name, getattr(self, each.name), each.metadata or shown()

    @property
    def fraction(self) -> float:
        """Share of the phase's tokens seen, at most 1."""
        return min(1.0, self.phase_tokens / self.goal_tokens)

    def total_steps(self) -> int:
        """Return the steps of the phase, if those to come have as many tokens as this one."""
        left = max(0, self.goal_tokens - self.phase_tokens)
        return self.step + -(-left // self.step_tokens)


def json_value(value: Any) -> Any:
    """Return ``value``, or None for a number that JSON has no word for: the loss of a step that was skipped."""
    return None if isinstance(value, float) and not math.isfinite(value) else value
