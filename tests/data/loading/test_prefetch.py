"""Worker processes of the loader: signals of a scheduler are not for them; a killed one is an error, and no more."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from megatron_mmbert.data.loading.prefetch import ProcessMap
from megatron_mmbert.utils.errors import UserError


def _slowly(index: int) -> int:
    time.sleep(0.01)
    return index


def _large(index: int) -> np.ndarray:
    """Return 4 MB, far more than a pipe holds, so that a worker is often killed while it writes."""
    return np.full(500_000, index)


def _failing(index: int) -> int:
    if index == 2:
        raise ValueError("the second block is bad")
    return index


@pytest.fixture
def own_workers() -> Callable[[], list[int]]:
    """Return the process ids of the workers begun since; the tests before may have left processes that others need."""
    before = {child.pid for child in multiprocessing.active_children()}
    return lambda: [int(c.pid or 0) for c in multiprocessing.active_children() if c.pid not in before]


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2", "SIGINT"])
def test_workers_outlive_a_signal_to_every_process_of_a_job(name: str, own_workers: Callable[[], list[int]]) -> None:
    items = ProcessMap(_slowly, 0, workers=2)
    assert [next(items), next(items)] == [0, 1]
    assert own_workers()
    for worker in own_workers():
        os.kill(worker, signal.Signals[name])
    assert [next(items) for _ in range(10)] == list(range(2, 12))
    items.close()


@pytest.mark.parametrize("victim", range(3))
def test_a_killed_worker_is_an_error_and_the_others_end(victim: int, own_workers: Callable[[], list[int]]) -> None:
    items = ProcessMap(_slowly, 0, workers=3)
    assert next(items) == 0
    time.sleep(0.1)  # all have done what they were asked for, and wait
    os.kill(sorted(own_workers())[victim], signal.SIGKILL)
    with pytest.raises(UserError, match="status -9"):
        for _ in range(20):
            next(items)
    started = time.monotonic()
    items.close()
    assert time.monotonic() - started < 10 and not own_workers()


@pytest.mark.parametrize("seed", range(6))
def test_a_worker_killed_while_it_writes_is_an_error_too(seed: int, own_workers: Callable[[], list[int]]) -> None:
    """The reader has begun to read the item: with a queue that workers share it would wait for the end of it."""
    draw = random.Random(seed)
    items = ProcessMap(_large, 0, workers=3)
    next(items)
    victim = draw.choice(own_workers())
    threading.Timer(draw.uniform(0.0, 0.05), os.kill, (victim, signal.SIGKILL)).start()
    failed: list[BaseException] = []

    def read() -> None:
        try:
            while True:
                next(items)
        except UserError as error:
            failed.append(error)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    reader.join(30)
    assert not reader.is_alive() and failed
    items.close()
    assert not own_workers()


def test_an_error_arrives_in_its_turn_with_the_workers_traceback() -> None:
    items = ProcessMap(_failing, 0, workers=2)
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="second block") as raised:
        next(items)
    assert any("_failing" in note for note in raised.value.__notes__)
    items.close()


def _killed_parent(pipe: int) -> None:
    items = ProcessMap(_slowly, 0, workers=2)
    next(items)
    os.write(pipe, " ".join(str(child.pid) for child in multiprocessing.active_children()).encode())
    os.kill(os.getpid(), signal.SIGKILL)


def test_workers_of_a_killed_parent_end() -> None:
    read, write = os.pipe()
    parent = multiprocessing.get_context("fork").Process(target=_killed_parent, args=(write,))
    parent.start()
    parent.join()
    workers = [int(pid) for pid in os.read(read, 1000).split()]
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(_runs(worker) for worker in workers):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _runs(pid: int) -> bool:
    """Return whether the process runs; one that has ended and that nobody waits for does not."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
