"""Saving while training goes on: one checkpoint at a time is written in a thread of each rank.

:meth:`AsyncSaver.begin` copies this rank's tensors; a thread writes, checksums and syncs them. The main threads ask one
another between steps (:meth:`AsyncSaver.poll`) whether all have written; then rank 0's thread describes the checkpoint
and commits it by one rename. Threads take part in no exchange between ranks, so what ranks exchange keeps its order.

A failure on any rank is one on all: the half-written folder is removed, and the outcome says what happened.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from megatron_mmbert.checkpoint.commit import staging_path
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.save_plan import RankSavePlan, RankShards
from megatron_mmbert.checkpoint.shard_writer import Cancelled, Written, commit, write_share
from megatron_mmbert.parallel.runtime import all_ranks, any_ranks, broadcast_object, current
from megatron_mmbert.utils.errors import NO_ROOM

_NICENESS = 10  # on a CPU the writer works on the trainer's cores
_WAIT = 0.01  # seconds between looks at the threads


@dataclass(frozen=True)
class Outcome:
    """How a save ended.

    Attributes:
        path: the checkpoint.
        stalled: seconds for which training stood still; ``wrote``: from its begin to its commit.
        problem: why there is none, in one sentence; empty if there is.
    """

    path: Path
    stalled: float
    wrote: float
    problem: str = ""


@dataclass
class _Flight:
    """A save that is under way."""

    path: Path
    meta: CheckpointMeta
    started: float
    share: RankShards
    job: _Job
    stalled: float = 0.0
    committing: bool = False


@dataclass
class _Job:
    """Something that runs in a thread, or has run.

    Attributes:
        result: what it returned; ``error``: what it raised.
    """

    work: Callable[[], Any]
    result: Any = None
    error: BaseException | None = None
    thread: threading.Thread | None = field(default=None, repr=False)

    def start(self, in_background: bool) -> _Job:
        if in_background:
            self.thread = threading.Thread(target=self._run_quietly, daemon=True, name="checkpoint")
            self.thread.start()
        else:
            self._run()
        return self

    @property
    def done(self) -> bool:
        return self.thread is None or not self.thread.is_alive()

    def _run_quietly(self) -> None:
        if sys.platform == "linux":  # where a thread has a niceness of its own
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
        self._run()

    def _run(self) -> None:
        try:
            self.result = self.work()
        except Exception as error:
            self.error = error


class AsyncSaver:
    """Writes the checkpoints of one run; all its methods but :meth:`cancel` are called by all ranks together.

    Args:
        asynchronous: write in the background; else :meth:`begin` returns when the checkpoint is there.
        after: called with the checkpoint that has been committed, on rank 0, where the writing is done.
    """

    def __init__(self, asynchronous: bool, after: Callable[[Path], None] = lambda checkpoint: None) -> None:
        self._asynchronous, self._after = asynchronous, after
        self._stage = RankSavePlan(copies=asynchronous)
        self._flight: _Flight | None = None
        self._cancelled = threading.Event()

    def begin(
        self, path: Path, meta: CheckpointMeta, state: dict[str, Any], started: float | None = None
    ) -> Outcome | None:
        """Begin to write the checkpoint ``path``; the one before it must have ended.

        A folder that is at ``path`` already is replaced: a resumed run writes again the step of a damaged checkpoint.

        Args:
            state: nested, with Megatron-Core's ``ShardedTensor`` as leaves. They may change when this returns.
            started: since when training stands still for it, of ``time.perf_counter``; by default since now.

        Returns:
            The outcome if it is known already.
        """
        assert self._flight is None, "one save at a time"
        started = time.perf_counter() if started is None else started
        staging = staging_path(path)
        prepared = _Job(partial(_prepare, staging)) if current().is_main else _Job(lambda: None)
        prepared.start(in_background=False)
        if any_ranks([prepared.error is not None])[0]:
            seconds = time.perf_counter() - started
            return Outcome(path, seconds, seconds, _problem(path, prepared.error, 0))
        share = self._stage.share_of(state, staging)
        described = meta.model_copy(update={"has_optimizer": "optimizer" in state})
        job = _Job(partial(write_share, staging, current().rank, share, self._cancelled)).start(self._asynchronous)
        self._flight = _Flight(path, described, started, share, job, time.perf_counter() - started)
        return None if self._asynchronous else self.wait()

    def poll(self) -> Outcome | None:
        """Go on with what is under way without waiting for it; the outcome when it has ended."""
        flight = self._flight
        if flight is None:
            return None
        started = time.perf_counter()
        busy, failed = any_ranks([not flight.job.done, flight.job.done and flight.job.error is not None])
        ended = not busy and (failed or flight.committing)
        problem = _problem(flight.path, flight.job.error, flight.share.bytes) if ended and failed else ""
        if not busy and not ended:
            self._commit(flight)
        now = time.perf_counter()
        flight.stalled += now - started
        if not ended:
            return None
        self._flight = None
        return Outcome(flight.path, flight.stalled, now - flight.started, problem)

    def wait(self) -> Outcome | None:
        """End what is under way, if anything is."""
        while self._flight is not None:
            flight = self._flight
            if (outcome := self.poll()) is not None:
                return outcome
            if not flight.job.done:
                time.sleep(_WAIT)
                flight.stalled += _WAIT
        return None

    def cancel(self) -> None:
        """Leave what is under way, for this rank ends: a folder with a dot name stays, which the next start removes."""
        self._cancelled.set()
        if self._flight is not None and self._flight.job.thread is not None:
            self._flight.job.thread.join()

    def _commit(self, flight: _Flight) -> None:
        written: list[Written] = all_ranks(flight.job.result)
        flight.committing = True
        flight.job = _Job(partial(self._finish, flight, written) if current().is_main else lambda: None)
        flight.job.start(self._asynchronous and current().is_main)

    def _finish(self, flight: _Flight, written: list[Written]) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        commit(staging_path(flight.path), flight.path, flight.meta, flight.share, written)
        self._after(flight.path)


def _prepare(staging: Path) -> None:
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)


def _problem(path: Path, error: BaseException | None, needed: int) -> str:
    """Remove what was half-written; one sentence, the same on every rank.

    Args:
        error: what went wrong on this rank; None: it did on another.
        needed: bytes that this rank wrote or would have written.
    """
    told = all_ranks((_reason(error), needed))
    if not current().is_main:
        return str(broadcast_object(None))
    staging = staging_path(path)
    shutil.rmtree(staging, ignore_errors=True)
    folder = next(parent for parent in path.parents if parent.exists())
    rank, reason = next((rank, reason) for rank, (reason, _) in enumerate(told) if reason)
    return str(
        broadcast_object(
            f"{path}: not saved, {reason} (rank {rank}); {shutil.disk_usage(folder).free:,} bytes are free and the "
            f"tensors take {sum(size for _, size in told):,}; make room there, or keep fewer checkpoints "
            "(checkpoint.keep_last); those before it are whole"
        )
    )


def _reason(error: BaseException | None) -> str:
    """Why a rank could not write; empty if it could."""
    if error is None:
        return ""
    if isinstance(error, OSError) and error.errno is not None:
        return f"{NO_ROOM.get(error.errno, os.strerror(error.errno).lower())} on {socket.gethostname()}"
    return f"{type(error).__name__} on {socket.gethostname()}: {error}"
