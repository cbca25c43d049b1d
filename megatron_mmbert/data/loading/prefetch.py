"""Working ahead: blocks planned in worker processes, packs assembled in a thread. The sequence stays the same."""

from __future__ import annotations

import multiprocessing
import queue
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from megatron_mmbert import compat
from megatron_mmbert.utils.process_pool import exit_with_parent

T = TypeVar("T")

_POLL_SECONDS = 0.2
_function: Callable[[int], Any] | None = None  # a worker process's own


class ProcessMap(Generic[T]):
    """``function(first)``, ``function(first + 1)``, ... without end, in order, computed in forked processes.

    Planning a block is mostly interpreted Python, so threads would not help it; and every rank plans every block, so
    on a thousand GPUs it is the cost that grows. Forked, not spawned: the workers share the tables of the mixture with
    the parent instead of receiving a copy each.
    """

    def __init__(self, function: Callable[[int], T], first: int, workers: int) -> None:
        self._pool = ProcessPoolExecutor(workers, multiprocessing.get_context("fork"), _start_worker, (function,))
        self._next = first
        self._waiting: deque[Future[T]] = deque()
        for _ in range(workers + 1):
            self._submit()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        self._submit()
        return self._waiting.popleft().result()

    def close(self) -> None:
        """End the workers. Where one was killed, the others are: it may have held the lock of their queue, and they do
        not heed the SIGTERM by which the pool would end them, waiting for ever."""
        workers = list((compat.POOL_PROCESSES.of(self._pool) or {}).values())
        manager: Any = compat.POOL_MANAGER.of(self._pool)
        self._pool.shutdown(wait=False, cancel_futures=True)
        while manager is not None and manager.is_alive():
            if compat.POOL_BROKEN.of(self._pool):
                for worker in workers:
                    worker.kill()
            manager.join(_POLL_SECONDS)

    def _submit(self) -> None:
        self._waiting.append(self._pool.submit(_call, self._next))
        self._next += 1


def _start_worker(function: Callable[[int], Any]) -> None:
    global _function
    _function = function
    # A scheduler signals every process of a job. The trainer alone answers, and needs its workers to end its step; that
    # it blocks these signals is not enough, as starting a process by "spawn" unblocks SIGTERM.
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    exit_with_parent()


def _call(index: int) -> Any:
    assert _function is not None
    return _function(index)


@dataclass(frozen=True)
class _Ended:
    """The end of the items: by an error, or (None) by running out."""

    error: BaseException | None


class ThreadAhead(Generic[T]):
    """The items of an iterator, up to ``depth`` of them made in advance by a thread. Errors arrive in their turn."""

    def __init__(self, items: Iterator[T], depth: int) -> None:
        self._queue: queue.Queue[T | _Ended] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), name="data prefetch", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item = self._queue.get()
        if isinstance(item, _Ended):
            self._queue.put(item)  # for whoever asks again
            raise item.error or StopIteration
        return item

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        self._thread.join()

    def _run(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                self._put(item)
                if self._stop.is_set():
                    return
            self._put(_Ended(None))
        except BaseException as error:
            self._put(_Ended(error))

    def _put(self, item: T | _Ended) -> None:
        while not self._stop.is_set():
            try:
                return self._queue.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
