"""Working ahead: blocks planned in worker processes, packs assembled in a thread. The sequence stays the same."""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import queue
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.process_pool import cannot_start, exit_with_parent

T = TypeVar("T")

_POLL_SECONDS = 0.2
_ITEMS_AHEAD = 2  # of each worker: one that it computes while the one before waits to be read


class ProcessMap(Generic[T]):
    """``function(first)``, ``function(first + 1)``, ... without end, in order, computed in forked processes.

    Planning a block is mostly interpreted Python, so threads would not help it; and every rank plans every block, so
    on a thousand GPUs it is the cost that grows. Forked, not spawned: the workers share the tables of the mixture with
    the parent instead of receiving a copy each.

    Worker w of W is asked for every W-th item, up to ``_ITEMS_AHEAD`` of them in advance, through a pipe of its own. So
    they share neither a queue nor a lock, and for one that is killed, be it while it writes, the reader sees the end of
    a file. With ``ProcessPoolExecutor`` and ``torch.utils.data.DataLoader`` it can wait for ever
    (``benchmarks/loader_workers.py`` compares the speed).
    """

    def __init__(self, function: Callable[[int], T], first: int, workers: int) -> None:
        context = multiprocessing.get_context("fork")
        self._pipes: list[Any] = []
        self._processes: list[Any] = []
        try:
            for _ in range(workers):
                pipe, workers_end = context.Pipe()
                self._pipes.append(pipe)
                work = (function, workers_end, list(self._pipes))
                process = context.Process(target=_work, args=work, name="data worker", daemon=True)
                process.start()
                self._processes.append(process)
                workers_end.close()  # the worker's is now the only one, so the pipe ends when the worker does
        except (OSError, RuntimeError) as error:
            self.close()
            raise cannot_start(f"data.workers {workers}", error) from None
        self._requests = zip(itertools.count(first), itertools.cycle(self._pipes), strict=False)
        self._turns = itertools.cycle(range(workers))
        for _ in range(workers * _ITEMS_AHEAD):
            self._request()
        # Processes left at the program's end are sent SIGTERM, which workers ignore, and waited for.
        atexit.register(self.close)

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        """Return the next item, or raise its error.

        Raises:
            UserError: its worker was killed.
        """
        worker = next(self._turns)
        try:
            error, item = self._pipes[worker].recv()
        except (EOFError, OSError):
            self._processes[worker].join()
            raise UserError(
                f"a data worker process ended with status {self._processes[worker].exitcode} (-9: killed, most likely "
                "for want of memory); lower data.workers"
            ) from None
        self._request()
        if error is not None:
            raise error
        result: T = item
        return result

    def close(self) -> None:
        """Kill the workers: all they hold can be computed again."""
        atexit.unregister(self.close)
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()

    def _request(self) -> None:
        index, pipe = next(self._requests)
        with suppress(OSError):  # that its worker was killed is said when its item is due
            pipe.send(index)


def _work(function: Callable[[int], Any], pipe: Any, parents_ends: list[Any]) -> None:
    # With these copies open here, the parent's end would not be the end of the pipes.
    for end in parents_ends:
        end.close()
    # A scheduler signals every process of a job. The trainer alone answers, and needs its workers to end its step; that
    # it blocks these signals is not enough, as starting a process by "spawn" unblocks SIGTERM.
    for name in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(name, signal.SIG_IGN)
    exit_with_parent()
    with suppress(EOFError, OSError):  # the parent was killed
        while True:
            pipe.send(_result(function, pipe.recv()))


def _result(function: Callable[[int], T], index: int) -> tuple[Exception | None, T | None]:
    """Return (error, item), one of which is None."""
    try:
        return None, function(index)
    except Exception as error:
        error.add_note(traceback.format_exc())  # the traceback itself stays in this process
        return error, None


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
