"""The messages of ranks to one another in the store: that they live, how far they are, how they end, who has failed.

Each rank writes the key ``rank N``: ``alive HOST COUNT MARKER``, ``failed HOST REASON`` or ``done``. The sentence that
ends the run stands under ``lost``; ``stacks`` beside it asks every rank for the stacks of its threads.
"""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Any

from megatron_mmbert.resilience.hang_detector import ProgressTable
from megatron_mmbert.resilience.progress_marker import ProgressMarker

REMEDY = "start the same command again on hosts that work, and it resumes from the last checkpoint"
DONE = "done"


@dataclass(frozen=True)
class MonitorSettings:
    """This rank, and how long the monitor waits.

    Attributes:
        seconds: silence after which a rank has failed.
        hang_seconds: how long all ranks may stand still before one of them is taken to hang.
    """

    rank: int
    world_size: int
    seconds: float
    hang_seconds: float = float("inf")

    @property
    def period(self) -> float:
        """Seconds between two counts."""
        return min(2.0, self.seconds / 8)


@dataclass(frozen=True)
class Finding:
    """The sentence that ends a run, and whether every rank is to print the stacks of its threads."""

    sentence: str
    wants_stacks: bool = False


class Sender:
    """Writes this rank's key, and the sentence, into the store.

    Attributes:
        closed: the last word is being said; no count comes after it.
    """

    def __init__(self, store: Any, rank: int) -> None:
        self._store, self._key = store, f"rank {rank}"
        self._lock, self._count = threading.Lock(), 0
        self.closed, self.host = threading.Event(), socket.gethostname()

    def send_count(self, marker: ProgressMarker) -> None:
        """Say that this rank is alive, and its progress."""
        self._count += 1
        with self._lock:
            if not self.closed.is_set():
                self._store.set(self._key, f"alive {self.host} {self._count} {_encode(marker)}")

    def send_last(self, value: str) -> None:
        """Say how this rank ends."""
        with self._lock:  # a count under way would otherwise come after the last word, and this rank seem failed
            self.closed.set()
        self._set(self._key, value)

    def announce(self, sentence: str, wants_stacks: bool = False) -> None:
        """Write the sentence down for all ranks."""
        if wants_stacks:
            self._set("stacks", "wanted")
        self._set("lost", sentence)

    def _set(self, key: str, value: str) -> None:
        try:
            self._store.set(key, value)
        except (RuntimeError, ValueError):
            pass  # the store is gone: nobody is left to tell


class Receiver:
    """Reads the other ranks' keys: rank 0 all of them, any other rank that of rank 0.

    Attributes:
        store_host: the host of rank 0, and of the store.
    """

    def __init__(self, store: Any, settings: MonitorSettings) -> None:
        self._store, self._settings = store, settings
        self._progress = ProgressTable()
        self._last: dict[int, tuple[str, float]] = {}
        self.store_host = "its host"

    def receive(self, host: str, marker: ProgressMarker) -> Finding | None:
        """Read the keys; returns what is found amiss.

        Args:
            host, marker: of this rank.
        """
        now = time.monotonic()
        if self._settings.rank == 0:
            self._progress.update(0, host, marker, now)
            return self._receive_all()
        if self._store.check(["rank 0"]):
            return self._receive_rank_0(self._store.get("rank 0").decode(), now)
        return None

    def announced(self) -> Finding | None:
        """Return the sentence that some rank has written down."""
        if not self._store.check(["lost"]):
            return None
        return Finding(self._store.get("lost").decode(), self._store.check(["stacks"]))

    def _receive_rank_0(self, value: str, now: float) -> Finding | None:
        """Watch rank 0 from another rank: it may be killed while the store, which torchrun serves, lives on."""
        silent_since = self._silent_since(0, value, now)
        if not value.startswith("alive "):
            return None
        self.store_host = value.split()[1]
        if now - silent_since > self._settings.seconds:
            return Finding(_silence({0: self.store_host}, self._settings.seconds))
        return None

    def _receive_all(self) -> Finding | None:
        """Find, on rank 0, ranks that have failed, fallen silent, or hang."""
        keys = [f"rank {rank}" for rank in range(1, self._settings.world_size)]
        if not self._store.check(keys):  # not all have begun; joining has its own time limit
            keys = [key for key in keys if self._store.check([key])]
        now, silent, failed = time.monotonic(), {}, []
        for key, value in zip(keys, map(bytes.decode, self._store.multi_get(keys)) if keys else (), strict=True):
            rank = int(key.split()[1])
            silent_since = self._silent_since(rank, value, now)
            if value.startswith("failed "):
                _, host, reason = value.split(" ", 2)
                failed.append(f"rank {rank} on {host} ended: {reason}")
            elif value == DONE:
                self._progress.remove(rank)
            else:
                _, host, _, marker = value.split(" ", 3)
                self._progress.update(rank, host, _decode(marker), now)
                if now - silent_since > self._settings.seconds:
                    silent[rank] = host
        if failed:
            return Finding(f"{failed[0]}; {REMEDY}")
        if silent:
            return Finding(_silence(silent, self._settings.seconds))
        if hang := self._progress.find_hang(self._settings.hang_seconds, now):
            stacks = "where each thread of each rank is stands in the ranks' logs"
            return Finding(f"{hang}; {stacks}; {REMEDY}", wants_stacks=True)
        return None

    def _silent_since(self, rank: int, value: str, now: float) -> float:
        """Return when the rank's key was first seen with this value."""
        if value != self._last.get(rank, ("", 0.0))[0]:
            self._last[rank] = (value, now)
        return self._last[rank][1]


def _silence(silent: dict[int, str], seconds: float) -> str:
    """Return the sentence about ranks, by host, that no longer count."""
    listed = ", ".join(f"rank {rank} on {host}" for rank, host in list(silent.items())[:8])
    more = f" and {len(silent) - 8} more" if len(silent) > 8 else ""
    verb = "has" if len(silent) == 1 else "have"
    return (
        f"{listed}{more} {verb} not been heard of for {seconds:g} s: killed, or the host or the network to it is lost; "
        f"{REMEDY}"
    )


def _encode(marker: ProgressMarker) -> str:
    return f"{marker.count} {int(marker.waits)} {marker.stage}"


def _decode(text: str) -> ProgressMarker:
    count, waits, stage = text.split(" ", 2)
    return ProgressMarker(int(count), stage, waits == "1")
