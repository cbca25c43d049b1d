"""Which rank hangs, when all are alive and none gets on: the one behind the others, or the one that waits for nobody.

A rank that hangs keeps all others waiting in the next exchange, where every stack looks alike; what tells it apart is
how far each has come (:mod:`.whereabouts`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from megatron_mmbert.resilience.progress_marker import ProgressMarker


@dataclass(frozen=True)
class RankProgress:
    """Where a rank on ``host`` is, ``since`` when (monotonic seconds)."""

    host: str
    where: ProgressMarker
    since: float


class RanksProgress:
    """What rank 0 knows of every rank."""

    def __init__(self) -> None:
        self._of: dict[int, RankProgress] = {}

    def hear(self, rank: int, host: str, where: ProgressMarker, now: float) -> None:
        """``rank`` says where it is."""
        last = self._of.get(rank)
        since = last.since if last is not None and last.where.count == where.count else now
        self._of[rank] = RankProgress(host, where, since)

    def leave(self, rank: int) -> None:
        """``rank`` has ended in good order."""
        self._of.pop(rank, None)

    def hang(self, seconds: float, now: float) -> str:
        """The sentence that names who hangs, if no rank has got on for ``seconds``; "" if one has."""
        if not self._of or any(now - standing.since <= seconds for standing in self._of.values()):
            return ""
        return _sentence(self._of, now)


def _sentence(standings: Mapping[int, RankProgress], now: float) -> str:
    last = min(standing.where.count for standing in standings.values())
    behind = {rank: standing for rank, standing in standings.items() if standing.where.count == last}
    free = {rank: standing for rank, standing in behind.items() if not standing.where.waits}
    named = free or behind
    listed = ", ".join(f"rank {rank} on {standing.host}" for rank, standing in sorted(named.items())[:8])
    more = f" and {len(named) - 8} more" if len(named) > 8 else ""
    place = next(iter(named.values())).where.place
    seconds = now - max(standing.since for standing in standings.values())
    if len(named) == len(standings):
        return f"no rank has got on for {seconds:.0f} s: all are in {place}"
    return f"no rank has got on for {seconds:.0f} s: {listed}{more} hangs in {place}, and the others wait"
