"""Worker processes: one function over many items, results in order, bounded memory, and no orphans."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from functools import partial
from typing import TypeVar

from megatron_mmbert.utils.errors import UserError, reason_of

Item = TypeVar("Item")
Result = TypeVar("Result")

_PARENT_POLL_SECONDS = 1.0
_SECONDS_PER_WAIT = 5.0


def ordered_map(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int,
    prepare: Callable[[], None],
    waiting: Callable[[], None] = lambda: None,
) -> Generator[Result, None, None]:
    """Yield ``work(item)`` for every item, in the order of ``items``, by ``workers`` processes; with 1, in this one.

    ``prepare()`` runs once in every process before its first item. At most ``2 * workers + 2`` items are on their way.
    ``waiting()`` is called every few seconds in which no result arrives: one item may take minutes.

    Raises:
        UserError: a worker process was killed, or cannot be started; and what ``prepare`` raises.
    """
    if workers == 1:
        prepare()
        yield from map(work, items)
        return
    # Fork where there is fork: a spawned worker would import everything again.
    method = "fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn"
    try:
        pool = ProcessPoolExecutor(workers, multiprocessing.get_context(method), _start_worker, (prepare,))
    except OSError as error:
        raise cannot_start(f"--workers {workers}", error) from None
    pending: deque[Future[Result]] = deque()
    try:
        for item in items:
            pending.append(_submit(pool, partial(_work_in_worker, work), item, workers))
            if len(pending) > 2 * workers + 1:
                yield _result(pending.popleft(), waiting)
        while pending:
            yield _result(pending.popleft(), waiting)
    except BrokenProcessPool:
        raise UserError(
            f"a worker process was killed, most likely for want of memory; use fewer than --workers {workers}"
        ) from None
    finally:
        with suppress(RuntimeError):  # its thread could not be started, so there is nothing to wait for
            pool.shutdown(wait=True, cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, work: Callable[[Item], Result], item: Item, workers: int) -> Future[Result]:
    """Hand ``item`` to the pool, which starts its processes at the first one."""
    try:
        return pool.submit(work, item)
    except BrokenProcessPool:
        raise
    except (OSError, RuntimeError) as error:  # no descriptor, process or thread is left for them
        # Those that were started wait for work, and Python waits for them at its end.
        for process in list((pool._processes or {}).values()):
            process.kill()
            process.join()
        raise cannot_start(f"--workers {workers}", error) from None


def _result(future: Future[Result], waiting: Callable[[], None]) -> Result:
    while True:
        try:
            return future.result(_SECONDS_PER_WAIT)
        except TimeoutError:
            if future.done():
                return future.result()  # also an error of this kind of the worker's own
            waiting()


def cannot_start(flag: str, error: Exception) -> UserError:
    """Return the error for worker processes that cannot be started, asked for by ``flag``."""
    reason = reason_of(error.errno or 0, error.strerror) if isinstance(error, OSError) else str(error)
    return UserError(f"{flag}: so many processes cannot be started: {reason}; or use fewer")


def exit_with_parent() -> None:
    """Start a thread that ends this worker process when its parent is gone: it would wait for work for ever.

    The parent's id is polled. Its sentinel is a pipe that workers forked later
    keep open, so it would not tell.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_watch_parent, args=(parent.pid,), name="parent watch", daemon=True).start()


def _watch_parent(pid: int | None) -> None:
    while os.getppid() == pid:
        time.sleep(_PARENT_POLL_SECONDS)
    os._exit(1)


_prepare_error: Exception | None = None  # of this process


def _start_worker(prepare: Callable[[], None]) -> None:
    global _prepare_error
    # Ctrl-C reaches the whole process group; only the parent answers it, and ends the workers in good order.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    exit_with_parent()
    try:
        prepare()
    except Exception as error:  # the pool would print it and say that the worker was killed
        _prepare_error = error


def _work_in_worker(work: Callable[[Item], Result], item: Item) -> Result:
    if _prepare_error is not None:
        raise _prepare_error
    return work(item)
