"""Progress of an evaluation: what is done, and the time that the rest will take."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from megatron_mmbert.utils.progress import SECONDS_PER_LINE


class Progress:
    """Counts examples of work done; says a line every ten seconds."""

    def __init__(self, sizes: Sequence[int], say: Callable[[str], None]) -> None:
        self._total, self._works, self._say = sum(sizes), len(sizes), say
        self._finished = self._examples = 0
        self._start = self._last = time.monotonic()

    def done(self, size: int, what: str) -> None:
        """Count a piece of work of ``size`` examples, which ``what`` names."""
        self._examples += size
        self._finished += 1
        now = time.monotonic()
        if now - self._last >= SECONDS_PER_LINE:
            self._last = now
            left = (now - self._start) * (self._total - self._examples) / max(1, self._examples)
            self._say(f"{self._finished:,} of {self._works:,} pieces of work, {readable(left)} left; last: {what}")

    def skip(self, size: int) -> None:
        """Leave a piece of work out."""
        self._total -= size
        self._works -= 1


def readable(seconds: float) -> str:
    """Return a time as ``8 s``, ``12 min``, ``3.4 h``."""
    if seconds < 99:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
