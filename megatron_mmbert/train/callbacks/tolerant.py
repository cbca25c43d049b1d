"""A wrapper that lets training continue when a callback cannot write its files."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.counters import Counters
from megatron_mmbert.train.metrics import StepMetrics


class Tolerant(Callback):
    """Wrap a callback that writes files: warn at most every ten minutes when it cannot, and let training continue."""

    _EVERY = 600.0  # seconds

    def __init__(self, callback: Callback) -> None:
        self._callback, self._warned = callback, -math.inf

    def on_train_begin(self, counters: Counters) -> None:
        self._call(self._callback.on_train_begin, counters)

    def on_step_end(self, counters: Counters) -> None:
        self._call(self._callback.on_step_end, counters)

    def on_phase_end(self, counters: Counters) -> None:
        self._call(self._callback.on_phase_end, counters)

    def on_step(self, metrics: StepMetrics) -> None:
        self._call(self._callback.on_step, metrics)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        self._call(self._callback.on_scores, moment, bits_per_byte, total_tokens)

    def on_save_begin(self) -> None:
        self._call(self._callback.on_save_begin)

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        self._call(self._callback.on_save, path, stalled, wrote)

    def on_event(self, kind: str, text: str) -> None:
        self._call(self._callback.on_event, kind, text)

    def close(self) -> None:
        self._call(self._callback.close)

    def _call(self, method: Callable[..., None], *values: Any) -> None:
        try:
            method(*values)
        except OSError as error:
            if time.monotonic() - self._warned >= self._EVERY:
                print(
                    f"warning: {type(self._callback).__name__} cannot write ({error}); training continues", flush=True
                )
                self._warned = time.monotonic()
