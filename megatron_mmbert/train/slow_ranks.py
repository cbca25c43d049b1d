"""Naming a rank that is slower than the others: a hot GPU or a busy host slows the whole run and looks like nothing.

Compared is each rank's own work before it waits for the others, as a mean over some steps. Under tensor or pipeline
parallelism ranks of one model wait for each other within a step, so that a slow one shows as a slow group.
"""

from __future__ import annotations

import socket

from megatron_mmbert.parallel.runtime import all_ranks, current, number_of_each_rank

LOOK_EVERY = 20  # steps


class SlowRanks:
    """Looks every :data:`LOOK_EVERY` steps; all ranks must ask."""

    def __init__(self, threshold: float) -> None:
        """
        Args:
            threshold: times the median from which a rank counts as slow.
        """
        self._threshold = threshold
        self._seconds: list[float] = []

    def look(self, seconds: float) -> str | None:
        """After a step in which this rank was at work for ``seconds``; a sentence when a rank is slow."""
        if current().world_size == 1:
            return None
        self._seconds.append(seconds)
        if len(self._seconds) < LOOK_EVERY:
            return None
        mean, self._seconds = sum(self._seconds) / len(self._seconds), []
        return self._judge(number_of_each_rank(mean))

    def _judge(self, means: list[float]) -> str | None:
        usual = sorted(means)[(len(means) - 1) // 2]
        slow = [rank for rank, mean in enumerate(means) if mean > self._threshold * usual]
        if not slow:
            return None
        hosts = all_ranks(socket.gethostname())
        named = ", ".join(f"rank {rank} on {hosts[rank]} ({means[rank] / usual:.1f} x)" for rank in slow[:8])
        return f"{named} of the median's {usual * 1000:.0f} ms a step"
