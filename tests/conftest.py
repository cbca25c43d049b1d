"""Fixtures of all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from megatron_mmbert import parallel

# The same examples every time, so that a red run is a change's doing. To search: HYPOTHESIS_PROFILE=search.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.register_profile("search", derandomize=False)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "same"))

# Processes that tests start find this checkout and the package of shared helpers, installed or not.
_TESTS = Path(__file__).resolve().parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(_TESTS.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")])


@pytest.fixture(scope="module")
def runtime() -> Iterator[parallel.Runtime]:
    """The parallel world of one process.

    Started anew for each test module, which takes milliseconds, and left behind it: modules that lay out the world
    their own way then find none, whatever order they run in.
    """
    parallel.enable_cpu_mode()
    yield parallel.start(seed=1)
    parallel.shutdown()


@pytest.fixture(autouse=True)
def signals_are_left_alone() -> Iterator[None]:
    """A test that leaves signals blocked would pass them on, blocked, to the processes of all tests behind it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    after = signal.pthread_sigmask(signal.SIG_SETMASK, before)
    assert after == before, "the test left other signals blocked than it found"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests, and those on a real Slurm, run only when ``-m`` names them."""
    chosen = config.getoption("markexpr") or ""
    for marker in ("slow", "slurm", "soak", "faults"):
        for item in items:
            if marker not in chosen and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"run with -m {marker}"))
