"""Worker processes of the loader: signals of a scheduler are not for them; a killed one is an error, and no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import wait
from concurrent.futures.process import BrokenProcessPool

import pytest

from megatron_mmbert.data.loading.prefetch import ProcessMap


def _slowly(index: int) -> int:
    time.sleep(0.01)
    return index


@pytest.fixture
def own_workers() -> Callable[[], list[int]]:
    """Return the process ids of the workers begun since; the tests before may have left processes that others need."""
    before = {child.pid for child in multiprocessing.active_children()}
    return lambda: [int(c.pid or 0) for c in multiprocessing.active_children() if c.pid not in before]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_workers_outlive_a_signal_to_every_process_of_a_job(name: str, own_workers: Callable[[], list[int]]) -> None:
    items = ProcessMap(_slowly, 0, workers=2)
    assert next(items) == 0
    assert own_workers()
    for worker in own_workers():
        os.kill(worker, signal.Signals[name])
    assert [next(items) for _ in range(10)] == list(range(1, 11))
    items.close()


@pytest.mark.parametrize("victim", range(3))
def test_a_killed_worker_is_an_error_and_the_others_end(victim: int, own_workers: Callable[[], list[int]]) -> None:
    """One of the idle workers waits with the lock of their queue in hand."""
    items = ProcessMap(_slowly, 0, workers=3)
    assert next(items) == 0
    wait(items._waiting)
    os.kill(sorted(own_workers())[victim], signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        for _ in range(20):
            next(items)
    started = time.monotonic()
    items.close()
    assert time.monotonic() - started < 10 and not own_workers()
