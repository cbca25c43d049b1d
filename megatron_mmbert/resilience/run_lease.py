"""The lease on a phase's folder: one trainer at a time writes checkpoints and metrics there.

``lease.json`` holds host, process and job of the trainer; its modification time is the heartbeat, renewed by a thread.
A second trainer says who has it and ends. A lease is stale when its process is gone (where processes can be seen: on
the same host, in the same container), or when its heartbeat has stood still for ``STALE_SECONDS``; then it is taken
over with a sentence. Times are compared by the file system's own clock, so that hosts need not agree on the time.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import make_folders, to_json

LEASE_FILE = "lease.json"
RENEW_SECONDS = 10.0
STALE_SECONDS = 60.0
_JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")


class LeaseHeldError(UserError):
    """Another trainer has the folder; nothing of it may be touched."""


class RunLease:
    """Exclusive right of this process to write into a phase's folder.

    Args:
        folder: of the phase; made if it is missing.
        say: takes the sentence when a stale lease is taken over or waited for.

    Raises:
        LeaseHeldError: another trainer holds the lease.
    """

    def __init__(
        self,
        folder: Path,
        say: Callable[[str], None] = print,
        stale_seconds: float = STALE_SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ) -> None:
        make_folders(folder)
        self._path, self._say = folder / LEASE_FILE, say
        self._mark = secrets.token_hex(8)
        self._stale_seconds, self._renew_seconds = stale_seconds, renew_seconds
        while not self._create():
            self._wait_or_raise()
        self._remove_leftovers()
        self._ended = threading.Event()
        self._lost_to: str | None = None
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def lost_to(self) -> str | None:
        """Return who holds the lease now if it is no longer this process, else None."""
        return self._lost_to

    def release(self) -> None:
        """End the lease; a second call does nothing."""
        self._ended.set()
        self._thread.join(self._renew_seconds)
        try:
            is_own = _holder(self._path).get("mark") == self._mark
        except OSError:  # it cannot be read just now, and nobody was seen to take it over
            is_own = self._lost_to is None
        if is_own:
            self._path.unlink(missing_ok=True)

    def _create(self) -> bool:
        holder = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "process": os.getpid(),
            "started": _process_start(os.getpid()),
            "job": next((os.environ[name] for name in _JOB_VARIABLES if name in os.environ), None),
            "since": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "mark": self._mark,
        }
        staging = self._path.with_name(f".{LEASE_FILE}.{self._mark}.tmp")
        staging.write_text(to_json(holder) + "\n", encoding="utf-8")
        try:
            os.link(staging, self._path)  # fails where there is one, and is never seen half-written
        except (FileExistsError, FileNotFoundError):  # the latter: who has the lease by now took ours for a leftover
            return False
        finally:
            staging.unlink(missing_ok=True)
        return True

    def _remove_leftovers(self) -> None:
        """Remove what trainers left that were killed while they wrote a file of the folder, or asked for the lease."""
        for left in self._path.parent.glob(".*.tmp"):
            if left.is_file():
                left.unlink(missing_ok=True)
        for left in self._path.parent.glob(f".{LEASE_FILE}.*"):  # for a moment, the lease of one who lives
            if self._age(_changed(left)) > self._stale_seconds:
                left.unlink(missing_ok=True)

    def _wait_or_raise(self) -> None:
        """Return when the lease that is there has been removed or found stale and removed.

        Raises:
            LeaseHeldError: its holder lives.
        """
        seen = _read(self._path)
        if seen.get("machine") == _machine() and isinstance(seen.get("process"), int):
            if _process_start(seen["process"]) == seen.get("started") is not None:
                raise self._refused_by(seen)
            self._take_over(seen, "its process is gone")
            return
        beat = _modified(self._path)
        if beat is None:
            return
        deadline = time.monotonic() + self._stale_seconds
        if self._age(beat) < self._stale_seconds:
            self._say(
                f"{self._path}: held by {_name(seen)}; waiting up to {self._stale_seconds:.0f} s for a sign of it"
            )
        while time.monotonic() < deadline and self._age(beat) < self._stale_seconds:
            time.sleep(min(1.0, self._renew_seconds / 2))
            if _modified(self._path) is None:
                return
            if _modified(self._path) != beat:
                raise self._refused_by(seen)
        self._take_over(seen, f"it has given no sign for {self._age(beat):.0f} s")

    def _refused_by(self, holder: dict[str, Any]) -> LeaseHeldError:
        return LeaseHeldError(
            f"{self._path.parent}: {_name(holder)} has been training here since {holder.get('since')}; wait for its "
            f"end, end it, or choose another --output"
        )

    def _take_over(self, seen: dict[str, Any], reason: str) -> None:
        staging = self._path.with_name(f".{LEASE_FILE}.{self._mark}.old")
        try:
            os.rename(self._path, staging)
        except FileNotFoundError:
            return  # somebody else was quicker
        if _read(staging).get("mark") != seen.get("mark"):
            # Between the look and the rename another trainer took it over: give it back, and ask again.
            try:
                os.link(staging, self._path)
            except FileExistsError:
                pass
        else:
            self._say(f"{self._path}: lease of {_name(seen)} taken over: {reason}")
        staging.unlink(missing_ok=True)

    def _age(self, beat: float) -> float:
        """Seconds since ``beat`` by the clock of the file system."""
        probe = self._path.with_name(f".{LEASE_FILE}.{self._mark}.now")
        probe.touch()
        try:
            return probe.stat().st_mtime - beat
        finally:
            probe.unlink()

    def _renew(self) -> None:
        while not self._ended.wait(self._renew_seconds):
            try:
                holder = _holder(self._path)
                if holder.get("mark") != self._mark:
                    self._lost_to = _name(holder) if holder else "somebody who removed the lease"
                    return
                os.utime(self._path)
            except OSError:
                continue  # a file system that does not answer for a while; the next beat tries again


def _read(path: Path) -> dict[str, Any]:
    """Return what a lease says of its holder; empty where it says nothing, or cannot be read."""
    try:
        return _holder(path)
    except OSError:
        return {}


def _holder(path: Path) -> dict[str, Any]:
    """Return what a lease says of its holder; empty where there is none, or it says nothing.

    Raises:
        OSError: it is there, and cannot be read.
    """
    try:
        holder = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return holder if isinstance(holder, dict) else {}


def _modified(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None


def _changed(path: Path) -> float:
    try:
        return path.stat().st_ctime
    except FileNotFoundError:
        return math.inf


def _name(holder: dict[str, Any]) -> str:
    job = f" of job {holder['job']}" if holder.get("job") else ""
    return f"process {holder.get('process', '?')}{job} on {holder.get('host', 'an unknown host')}"


def _machine() -> str:
    """Return what processes that can see each other have in common: the boot of the kernel and the PID namespace."""
    try:
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return socket.gethostname()


def _process_start(process: int) -> str | None:
    """Return when a process of this host started, in the kernel's ticks; None if there is none (or it is a zombie)."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] in ("Z", "X") else fields[19]
