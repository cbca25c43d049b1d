"""Stragglers: ranks slower than the others. A hot GPU or a busy host slows the whole run, and no error shows it.

Two times are compared: of a small matrix product, which each rank computes for itself, and of each rank's own work
before it waits for the others, as a mean over some steps. The first names the rank in every layout. The second also
sees what is no arithmetic, as a slow disk, but ranks of one model wait for each other within a step: there it names a
group.
"""

from __future__ import annotations

import socket
from collections.abc import Sequence

from megatron_mmbert.kernels.matmul_peak import product_seconds
from megatron_mmbert.parallel.runtime import all_ranks, current, number_of_each_rank

LOOK_EVERY = 20  # steps


class StragglerDetector:
    """Compares ranks every :data:`LOOK_EVERY` steps; called by all ranks together."""

    def __init__(self, threshold: float) -> None:
        """
        Args:
            threshold: times the median from which a rank counts as slow.
        """
        self._threshold = threshold
        self._seconds: list[float] = []

    def add_step(self, seconds: float) -> str | None:
        """Take in a step that kept this rank busy for ``seconds``; returns a sentence when a rank is slow."""
        if current().world_size == 1:
            return None
        self._seconds.append(seconds)
        if len(self._seconds) < LOOK_EVERY:
            return None
        mean, self._seconds = sum(self._seconds) / len(self._seconds), []
        # Both exchanges first: all ranks must take part, whatever they find.
        products, means = number_of_each_rank(product_seconds(current().device)), number_of_each_rank(mean)
        return self._compare(products, "a matrix product") or self._compare(means, "a step")

    def _compare(self, seconds: Sequence[float], of_what: str) -> str | None:
        usual = sorted(seconds)[(len(seconds) - 1) // 2]
        slow = [rank for rank, own in enumerate(seconds) if own > self._threshold * usual]
        if not slow:
            return None
        hosts = all_ranks(socket.gethostname())
        named = ", ".join(f"rank {rank} on {hosts[rank]} ({seconds[rank] / usual:.1f} x)" for rank in slow[:8])
        return f"{named} of the median's {usual * 1000:.3g} ms for {of_what}"
