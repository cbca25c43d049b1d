"""Signals and the end of the time: a flag between steps, at once only when asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_mmbert.train.callbacks.stop_request import StopRequest, end_time_of


@pytest.fixture
def request_of() -> Iterator[Callable[..., StopRequest]]:
    """Makes stop requests, and leaves the signals as they were."""
    numbers = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
    before = {number: signal.getsignal(number) for number in numbers}
    made: list[StopRequest] = []

    def make(*arguments: Any, **options: Any) -> StopRequest:
        made.append(StopRequest(*arguments, **options))
        return made[-1]

    yield make
    for stop in made:
        stop.ignore()
        stop._thread.join()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    for number, handler in before.items():
        signal.signal(number, handler)


def reason_within(stop: StopRequest, seconds: float = 5.0) -> str | None:
    """The reason, as soon as the listening thread has heard of it."""
    end = time.monotonic() + seconds
    while stop.reason() is None and time.monotonic() < end:
        time.sleep(0.01)
    return stop.reason()


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_a_reason(name: str, request_of: Callable[..., StopRequest]) -> None:
    stop = request_of()
    assert stop.reason() is None
    os.kill(os.getpid(), signal.Signals[name])
    assert reason_within(stop) == name


def test_only_the_chosen_signals_are_handled(request_of: Callable[..., StopRequest]) -> None:
    before = signal.getsignal(signal.SIGUSR1)
    request_of(["SIGUSR2"])
    assert signal.getsignal(signal.SIGUSR1) is before


def test_time_is_up_before_the_end(tmp_path: Path, request_of: Callable[..., StopRequest]) -> None:
    step: Any = SimpleNamespace(seconds=10.0)
    stop = request_of(end_time=time.time() + 100)
    stop.on_step(step)
    assert stop.reason() is not None, "before a save was seen a minute is kept for it: 2 x (10 + 60) > 100"
    stop = request_of(end_time=time.time() + 100)
    stop.on_step(step)
    stop.on_save(tmp_path, 0.1, 5.0)
    assert stop.reason() is None, "2 x (10 + 5) < 100"
    stop.on_save(tmp_path, 0.1, 45.0)
    assert "a step and a save may need 110" in str(stop.reason())
    stop.on_save(tmp_path, 0.1, 1.0)
    assert stop.reason() is not None, "the decision stays"


SECOND_SIGNAL = """
import os, signal, sys, time
from megatron_mmbert.train.callbacks import stop_request
stop_request._REPEATED = 0.2
stop = stop_request.StopRequest()
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(0.1)
os.kill(os.getpid(), signal.{second})
print("alive", flush=True)
time.sleep(0.3)
os.kill(os.getpid(), signal.{second})
{busy}
print("still alive", flush=True)
"""

_IN_C = "import hashlib; hashlib.pbkdf2_hmac('sha256', b'a', b'b', 2_000_000)"  # seconds without a line of Python


def test_a_second_sigterm_ends_at_once_but_not_one_that_is_passed_on_twice() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_SIGNAL.format(second="SIGTERM", busy=_IN_C)], capture_output=True, text=True
    )
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == "alive\n"
    assert "ending at once" in done.stderr


def test_a_repeated_warning_ends_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_SIGNAL.format(second="SIGUSR2", busy="")], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "alive\nstill alive\n"


def test_end_time_of() -> None:
    assert end_time_of({"MMBERT_END_TIME": "1700000000"}) == 1.7e9
    assert end_time_of({"MMBERT_END_TIME": "Unknown"}) is None
    assert end_time_of({}) is None


def test_child_processes_are_deaf_to_the_signals() -> None:
    code = (
        "import subprocess, sys, time\n"
        "from megatron_mmbert.train.callbacks.stop_request import StopRequest\n"
        "stop = StopRequest()\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1)'])\n"
        "time.sleep(0.3)\n"
        "child.terminate()\n"
        "assert child.wait() == 0, 'a signal to the whole job would have broken the save'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
