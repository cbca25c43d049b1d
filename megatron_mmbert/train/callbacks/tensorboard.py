"""TensorBoard event files."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics


class TensorBoard(Callback):
    """Event files for TensorBoard: steps of the phase, and held-out scores over all tokens seen in the run.

    After an error of the disk, what is new goes to a new file: the old one may end within a record.
    """

    _FLUSH_SECONDS = 20.0

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._folder = folder
        self._writer: Any = self._open(resumed_step + 1)

    def on_step(self, metrics: StepMetrics) -> None:
        self._add({name: (value, metrics.step) for name, value in metrics.tracked().items()})

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        self._add({f"bits_per_byte/{name}": (value, total_tokens) for name, value in bits_per_byte.items()})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # Its own thread would die of a full disk; so it flushes never, and this thread does.
        writer = SummaryWriter(str(self._folder), purge_step=purge_step, flush_secs=10**9)
        self._flushed = time.monotonic()
        return writer

    def _add(self, values: Mapping[str, tuple[float, int]]) -> None:
        self._writer = self._writer or self._open()
        try:
            for name, (value, step) in values.items():
                self._writer.add_scalar(name, value, step)
            if time.monotonic() - self._flushed >= self._FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError:
            self._writer = None
            raise
