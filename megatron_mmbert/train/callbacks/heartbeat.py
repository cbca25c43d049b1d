"""A small file whose age tells outside watchers whether training lives."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics, json_value
from megatron_mmbert.utils.files import to_json


class Heartbeat(Callback):
    """A small file that outside watchers look at: its age says whether training lives, its content how far it is."""

    _EVERY = 1.0  # seconds

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0
        self._write({"state": "starting"})

    def on_step(self, metrics: StepMetrics) -> None:
        if time.monotonic() - self._written >= self._EVERY:
            names = ("phase", "step", "phase_tokens", "goal_tokens", "loss")
            self._write({"state": "training"} | {name: json_value(getattr(metrics, name)) for name in names})

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        self._write({"state": f"scored held-out text {moment}"})

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        self._write({"state": "saved", "checkpoint": path.name})

    def close(self) -> None:
        self._write({"state": "ended"})

    def _write(self, values: dict[str, object]) -> None:
        # Renamed into place so that a reader never sees half of it; not synced, as only a living reader cares.
        staging = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            staging.write_text(to_json(values | {"pid": os.getpid(), "time": time.time()}) + "\n", encoding="utf-8")
            os.replace(staging, self._path)
        finally:
            staging.unlink(missing_ok=True)
        self._written = time.monotonic()
