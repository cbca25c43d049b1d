"""Signals and the end of the time: a flag between steps, at once only when asked twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from megatron_mmbert.train.stopping import StopRequest, end_time_of


@pytest.fixture(autouse=True)
def _handlers_restored() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_a_reason(name: str) -> None:
    stop = StopRequest()
    assert stop.reason() is None
    os.kill(os.getpid(), signal.Signals[name])
    assert stop.reason() == name


def test_only_the_chosen_signals_are_handled() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    StopRequest(["SIGUSR2"])
    assert signal.getsignal(signal.SIGUSR1) is before


def test_time_is_up_before_the_end(tmp_path: Path) -> None:
    stop = StopRequest(end_time=time.time() + 100)
    step: Any = SimpleNamespace(seconds=10.0)
    stop.on_step(step)
    assert stop.reason() is not None, "before a save was seen a minute is kept for it: 2 x (10 + 60) > 100"
    stop.on_save(tmp_path, 5.0)
    assert stop.reason() is None, "2 x (10 + 5) < 100"
    stop.on_save(tmp_path, 45.0)
    assert "a step and a save may need 110" in str(stop.reason())


SECOND_SIGNAL = """
import os, signal, sys, time
from megatron_mmbert.train import stopping
stopping._REPEATED = 0.2
stop = stopping.StopRequest()
os.kill(os.getpid(), signal.SIGTERM)
os.kill(os.getpid(), signal.{second})
print("alive", flush=True)
time.sleep(0.3)
os.kill(os.getpid(), signal.{second})
print("still alive", flush=True)
"""


def test_a_second_sigterm_ends_at_once_but_not_one_that_is_passed_on_twice() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_SIGNAL.format(second="SIGTERM")], capture_output=True, text=True
    )
    assert done.returncode == 128 + signal.SIGTERM and done.stdout == "alive\n"
    assert "ending at once" in done.stderr


def test_a_repeated_warning_ends_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_SIGNAL.format(second="SIGUSR2")], capture_output=True, text=True
    )
    assert done.returncode == 0 and done.stdout == "alive\nstill alive\n"


def test_end_time_of() -> None:
    assert end_time_of({"MMBERT_END_TIME": "1700000000"}) == 1.7e9
    assert end_time_of({"MMBERT_END_TIME": "Unknown"}) is None
    assert end_time_of({}) is None
