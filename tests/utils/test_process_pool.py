"""Pools of worker processes that cannot be started, or whose workers cannot be prepared: a sentence, never a hang."""

from __future__ import annotations

import multiprocessing
import resource
import time
from collections.abc import Iterator

import pytest

from megatron_mmbert.data.loading.prefetch import ProcessMap
from megatron_mmbert.utils import process_pool
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.process_pool import ordered_map


def double(item: int) -> int:
    return 2 * item


def wait(item: int) -> int:
    time.sleep(item)
    return item


def do_nothing() -> None:
    pass


def fail() -> None:
    raise UserError("tokenizer.model: cannot be read")


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    next_free = open("/dev/null")
    resource.setrlimit(resource.RLIMIT_NOFILE, (next_free.fileno() + 10, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        next_free.close()


@pytest.mark.usefixtures("few_descriptors")
def test_pool_without_descriptors() -> None:
    running = set(multiprocessing.active_children())
    with pytest.raises(UserError, match=r"--workers 12: .* cannot be started: too many open files"):
        list(ordered_map(double, range(100), 12, do_nothing))
    assert set(multiprocessing.active_children()) <= running


@pytest.mark.usefixtures("few_descriptors")
def test_data_workers_without_descriptors() -> None:
    running = set(multiprocessing.active_children())
    with pytest.raises(UserError, match=r"data.workers 12: .* cannot be started: too many open files"):
        ProcessMap(double, 0, 12)
    assert set(multiprocessing.active_children()) <= running


def test_a_worker_that_cannot_be_prepared_says_why(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^tokenizer.model: cannot be read$"):
        list(ordered_map(double, range(5), 2, fail))
    assert capfd.readouterr().err == ""
    assert list(ordered_map(double, range(5), 2, do_nothing)) == [0, 2, 4, 6, 8]


def test_a_long_item_is_waited_for_with_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_pool, "_SECONDS_PER_WAIT", 0.2)
    calls: list[int] = []
    assert list(ordered_map(wait, [1, 0], 2, do_nothing, lambda: calls.append(1))) == [1, 0]
    assert len(calls) >= 2
