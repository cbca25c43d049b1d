"""Detection of a hang: all ranks are alive and none advances; the sentence names the rank that the others wait for.

A rank that hangs keeps all others waiting in the next exchange, where every stack looks alike. Two things tell it
apart: its progress marker (:mod:`.progress_marker`) has the lowest count, or it alone does not wait in an exchange.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_mmbert.resilience.progress_marker import ProgressMarker


@dataclass(frozen=True)
class RankProgress:
    """The progress of a rank on ``host``, and ``since`` when (monotonic seconds) it is that."""

    host: str
    marker: ProgressMarker
    since: float


class ProgressTable:
    """The progress of every rank, as rank 0 knows it."""

    def __init__(self) -> None:
        self._ranks: dict[int, RankProgress] = {}

    def update(self, rank: int, host: str, marker: ProgressMarker, now: float) -> None:
        """Take in the marker that ``rank`` has sent."""
        last = self._ranks.get(rank)
        since = last.since if last is not None and last.marker.count == marker.count else now
        self._ranks[rank] = RankProgress(host, marker, since)

    def remove(self, rank: int) -> None:
        """Forget ``rank``, which has ended in good order."""
        self._ranks.pop(rank, None)

    def find_hang(self, seconds: float, now: float) -> str:
        """Return the sentence that names who hangs, if no rank has advanced for ``seconds``; "" if one has."""
        if not self._ranks or any(now - each.since <= seconds for each in self._ranks.values()):
            return ""
        return _sentence(self._ranks, now)


def _sentence(ranks: Mapping[int, RankProgress], now: float) -> str:
    lowest = min(each.marker.count for each in ranks.values())
    slowest = {rank: each for rank, each in ranks.items() if each.marker.count == lowest}
    busy = {rank: each for rank, each in slowest.items() if not each.marker.waits}
    named = busy or slowest
    listed = ", ".join(f"rank {rank} on {each.host}" for rank, each in sorted(named.items())[:8])
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    stage = next(iter(named.values())).marker.stage
    seconds = now - max(each.since for each in ranks.values())
    if len(named) == len(ranks):
        return f"no rank has advanced for {seconds:.0f} s: all are in {stage}"
    return f"no rank has advanced for {seconds:.0f} s: {listed}{more} hangs in {stage}, and the others wait"
