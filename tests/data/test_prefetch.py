"""Worker processes of the loader: signals of a scheduler are not for them; a killed one is an error, and no more."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from megatron_mmbert.data.prefetch import ProcessMap


def _number(number: int) -> int:
    time.sleep(0.01)
    return number


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_workers_outlive_a_signal_to_every_process_of_a_job(name: str) -> None:
    items = ProcessMap(_number, 0, workers=2)
    assert next(items) == 0
    for worker in multiprocessing.active_children():
        os.kill(int(worker.pid or 0), signal.Signals[name])
    assert [next(items) for _ in range(10)] == list(range(1, 11))
    items.close()


def test_a_killed_worker_is_an_error_and_the_others_end() -> None:
    items = ProcessMap(_number, 0, workers=3)
    assert next(items) == 0
    os.kill(int(multiprocessing.active_children()[0].pid or 0), signal.SIGKILL)
    with pytest.raises(BrokenProcessPool):
        for _ in range(20):
            next(items)
    started = time.monotonic()
    items.close()
    assert time.monotonic() - started < 10 and not multiprocessing.active_children()
