"""Metrics of every step and held-out scores as JSON lines, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics


class MetricsFile(Callback):
    """Every number of every step as JSON lines, for plots and for programs.

    A resumed run appends; lines of steps after the checkpoint it resumed from are dropped first, so that no step
    stands twice. While they cannot be written they are kept, and follow when there is room.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= resumed_step]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def on_step(self, metrics: StepMetrics) -> None:
        self._pending += json.dumps(metrics.to_json()).encode() + b"\n"
        self._write()

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        while self._pending:
            # Of a nearly full disk, part of a line may be taken: the rest must come right after it.
            self._pending = self._pending[self._file.write(self._pending) :]


class HeldOutFile(Callback):
    """Held-out bits per byte of every scoring as JSON lines: the moment, tokens over all phases, values by language.

    As in :class:`MetricsFile`, a resumed run appends to the lines up to the checkpoint it resumed from.
    """

    def __init__(self, path: Path, resumed_step: int, resumed_tokens: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run that has taken no step scores again before its first.
        kept = [line for line in _lines(path) if resumed_step and json.loads(line)["total_tokens"] <= resumed_tokens]
        path.write_text("".join(kept), encoding="utf-8")
        self._path = path

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        line = {"moment": moment, "total_tokens": total_tokens, "bits_per_byte": dict(bits_per_byte)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> list[str]:
    """Whole lines of an earlier run; a line cut off by a kill is dropped."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]
