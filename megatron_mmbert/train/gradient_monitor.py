"""A rank's own gradients and work, before gradients are summed over ranks: are they finite, how long did it take.

Afterwards it is too late for both: a NaN of one rank is then on all, and every rank has waited for the slowest.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from megatron_mmbert.utils.fault_points import Moment, fault_point


class GradientMonitor:
    """Looks at the gradients once a step; the findings are read later, so that a GPU need not be waited for."""

    def __init__(self) -> None:
        self._sums: Tensor | None = None
        self._started = self._ended = 0.0
        self._events: tuple[Any, Any] | None = None

    def start(self) -> None:
        """Begin a step."""
        self._sums = None
        self._started = self._ended = time.perf_counter()
        if torch.cuda.is_available():
            self._events = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
            self._events[0].record()

    def look(self, chunks: Sequence[Any]) -> None:
        """Look at the gradients in the data-parallel wrappers ``chunks``, when the backward pass is over.

        The sum over a buffer is finite if all in it are, and costs one read of it. With overlapped reduction parts are
        summed over ranks already: a fault is then still seen, but may be seen on several ranks.
        """
        fault_point(Moment.GRADIENTS, chunks)
        self._sums = torch.stack([buffer.grad_data.sum(dtype=torch.float32) for c in chunks for buffer in c.buffers])
        self._ended = time.perf_counter()
        if self._events is not None:
            self._events[1].record()

    def finite(self) -> bool:
        """Return whether the gradients are finite."""
        return self._sums is None or bool(torch.isfinite(self._sums).all())

    def seconds(self) -> float:
        """Return how long this rank was at work for the step."""
        if self._events is None:
            return self._ended - self._started
        self._events[1].synchronize()
        return float(self._events[0].elapsed_time(self._events[1])) / 1000
