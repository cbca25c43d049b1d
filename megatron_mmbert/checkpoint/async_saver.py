"""Asynchronous saving: one checkpoint at a time is written in a thread of each rank, while training continues.

:meth:`AsyncSaver.begin` copies this rank's tensors; a thread writes, checksums and syncs them. The main threads
compare between steps (:meth:`AsyncSaver.poll`) whether all have written; then rank 0's thread describes the checkpoint
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
from megatron_mmbert.checkpoint.shard_writer import Cancelled, NotFinite, Written, commit_shards, write_shards
from megatron_mmbert.parallel.runtime import all_ranks, any_ranks, broadcast_object, current
from megatron_mmbert.utils.errors import NO_ROOM
from megatron_mmbert.utils.files import make_folders, remove_folder

_MAKE_ROOM = "make room there, or keep fewer checkpoints (checkpoint.keep_last)"
_NICENESS = 10  # on a CPU the writer works on the trainer's cores
_WAIT = 0.01  # seconds between looks at the threads


@dataclass(frozen=True)
class Outcome:
    """The end of a save.

    Attributes:
        path: the checkpoint.
        stalled: seconds for which training waited; ``wrote``: seconds from begin to commit.
        problem: why there is no checkpoint, in one sentence; empty if there is one.
    """

    path: Path
    stalled: float
    wrote: float
    problem: str = ""


@dataclass
class _PendingSave:
    """A save that is under way."""

    path: Path
    meta: CheckpointMeta
    started: float
    shards: RankShards
    job: _Job
    stalled: float = 0.0
    committing: bool = False


@dataclass
class _Job:
    """A function that runs, or has run, in a thread or at once.

    Attributes:
        result: its return value; ``error``: its exception.
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
    """Writer of the checkpoints of one run; all its methods but :meth:`cancel` are called by all ranks together.

    Args:
        asynchronous: write in the background; else :meth:`begin` returns when the checkpoint is committed.
        after: called with each committed checkpoint, on rank 0, in the thread that writes.
    """

    def __init__(self, asynchronous: bool, after: Callable[[Path], None] = lambda checkpoint: None) -> None:
        self._asynchronous, self._after = asynchronous, after
        self._plan = RankSavePlan(copies=asynchronous)
        self._pending: _PendingSave | None = None
        self._cancelled = threading.Event()

    def begin(
        self, path: Path, meta: CheckpointMeta, state: dict[str, Any], started: float | None = None
    ) -> Outcome | None:
        """Begin to write the checkpoint ``path``; the save before it must have ended.

        An existing folder ``path`` is replaced: a resumed run writes again the step of a corrupt checkpoint.

        Args:
            state: nested, with Megatron-Core's ``ShardedTensor`` as leaves. They may change when this returns.
            started: ``time.perf_counter`` when training began to wait for it; by default now.

        Returns:
            The outcome if the save has ended already.
        """
        assert self._pending is None, "one save at a time"
        started = time.perf_counter() if started is None else started
        staging = staging_path(path)
        prepared = _Job(partial(_prepare, staging)) if current().is_main else _Job(lambda: None)
        prepared.start(in_background=False)
        if any_ranks([prepared.error is not None])[0]:
            seconds = time.perf_counter() - started
            return Outcome(path, seconds, seconds, _problem(path, prepared.error, 0))
        shards = self._plan.shards_of(state, staging)
        described = meta.model_copy(update={"has_optimizer": "optimizer" in state})
        job = _Job(partial(write_shards, staging, current().rank, shards, self._cancelled)).start(self._asynchronous)
        self._pending = _PendingSave(path, described, started, shards, job, time.perf_counter() - started)
        return None if self._asynchronous else self.wait()

    def poll(self) -> Outcome | None:
        """Advance the pending save without waiting for its threads; return the outcome when it has ended."""
        pending = self._pending
        if pending is None:
            return None
        started = time.perf_counter()
        busy, failed = any_ranks([not pending.job.done, pending.job.done and pending.job.error is not None])
        ended = not busy and (failed or pending.committing)
        problem = _problem(pending.path, pending.job.error, pending.shards.bytes) if ended and failed else ""
        if not busy and not ended:
            self._commit(pending)
        now = time.perf_counter()
        pending.stalled += now - started
        if not ended:
            return None
        self._pending = None
        return Outcome(pending.path, pending.stalled, now - pending.started, problem)

    def wait(self) -> Outcome | None:
        """Wait for the pending save, if there is one, and return its outcome."""
        while self._pending is not None:
            pending = self._pending
            if (outcome := self.poll()) is not None:
                return outcome
            if not pending.job.done:
                time.sleep(_WAIT)
                pending.stalled += _WAIT
        return None

    def cancel(self) -> None:
        """Abandon the pending save, as this rank ends; the next start removes the staging folder that stays."""
        self._cancelled.set()
        if self._pending is not None and self._pending.job.thread is not None:
            self._pending.job.thread.join()

    def _commit(self, pending: _PendingSave) -> None:
        written: list[Written] = all_ranks(pending.job.result)
        pending.committing = True
        pending.job = _Job(partial(self._finish, pending, written) if current().is_main else lambda: None)
        pending.job.start(self._asynchronous and current().is_main)

    def _finish(self, pending: _PendingSave, written: list[Written]) -> None:
        if self._cancelled.is_set():
            raise Cancelled
        commit_shards(staging_path(pending.path), pending.path, pending.meta, pending.shards, written)
        self._after(pending.path)


def _prepare(staging: Path) -> None:
    remove_folder(staging)
    make_folders(staging.parent)
    staging.mkdir()


def _problem(path: Path, error: BaseException | None, needed: int) -> str:
    """Remove the staging folder; return why it was not committed in one sentence, the same on every rank.

    Args:
        error: this rank's exception; None if only others failed.
        needed: bytes that this rank wrote or would have written.
    """
    answers = all_ranks((_reason(error), needed))
    if not current().is_main:
        return str(broadcast_object(None))
    staging = staging_path(path)
    remove_folder(staging)
    rank, (reason, advice) = next((rank, found) for rank, (found, _) in enumerate(answers) if found[0])
    if advice == _MAKE_ROOM:
        folder = next(parent for parent in path.parents if parent.exists())
        advice = (
            f"{shutil.disk_usage(folder).free:,} bytes are free and the tensors take "
            f"{sum(size for _, size in answers):,}; {advice}"
        )
    return str(broadcast_object(f"{path}: not saved, {reason} (rank {rank}); {advice}; those before it are whole"))


def _reason(error: BaseException | None) -> tuple[str, str]:
    """Return why this rank could not write, empty if it could, and what to do."""
    if error is None:
        return "", ""
    if isinstance(error, NotFinite):
        return str(error), "the steps since the checkpoint before are lost, see the losses in the log"
    if isinstance(error, OSError) and error.errno is not None:
        return f"{NO_ROOM.get(error.errno, os.strerror(error.errno).lower())} on {socket.gethostname()}", _MAKE_ROOM
    return f"{type(error).__name__} on {socket.gethostname()}: {error}", _MAKE_ROOM
