"""Who is lost, and who learns it: several watches on one store, and a store that goes away."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial

import pytest
import torch.distributed as dist

from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.progress_marker import Stage
from megatron_mmbert.resilience.rank_messages import MonitorSettings
from megatron_mmbert.resilience.rank_monitor import RankMonitor

SILENCE = 1.6


def server() -> dist.TCPStore:
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))


class World:
    """Watches of several ranks on one store, each with a connection of its own, and what they reported."""

    def __init__(self, ranks: int) -> None:
        self.store = server()
        self.said: dict[int, list[str]] = {rank: [] for rank in range(ranks)}
        self.watches = [
            RankMonitor(self._client(), MonitorSettings(rank, ranks, SILENCE), self.said[rank].append)
            for rank in range(ranks)
        ]

    def _client(self) -> dist.TCPStore:
        return dist.TCPStore("127.0.0.1", self.store.port, is_master=False, wait_for_workers=False)

    def die(self, rank: int) -> None:
        """Fall silent, as a killed process does, without a word to the others."""
        self.watches[rank]._sender.closed.set()


def until(is_so: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not is_so() and time.monotonic() < deadline:
        time.sleep(0.05)


@pytest.fixture
def world() -> World:
    return World(3)


def test_ranks_that_all_stand_still_hang(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ranks of this test are in one process, so both stand where its main thread does."""
    monkeypatch.setattr("faulthandler.dump_traceback", lambda *_, **__: None)
    store, said = server(), {0: [], 1: []}
    client = partial(dist.TCPStore, "127.0.0.1", store.port, is_master=False, wait_for_workers=False)
    watches = [
        RankMonitor(client(), MonitorSettings(rank, 2, SILENCE, 2 * SILENCE), said[rank].append) for rank in (0, 1)
    ]
    for step in range(12):
        progress_marker.mark(Stage.DATA, step)
        time.sleep(SILENCE / 3)
    assert not any(said.values()), "they got on"
    until(lambda: all(said.values()), 8 * SILENCE)
    for rank in (0, 1):
        assert "no rank has advanced for " in said[rank][0] and "all are in the data of step 11" in said[rank][0]
    for watch in watches:
        watch.close()


def close(world: World) -> None:
    for watch in world.watches:
        watch.close()


def test_nobody_is_lost_while_all_count(world: World) -> None:
    time.sleep(2 * SILENCE)
    assert not any(world.said.values())
    close(world)


def test_a_silent_rank_is_named_on_all_others(world: World) -> None:
    time.sleep(SILENCE / 2)
    world.die(1)
    until(lambda: all(world.said[rank] for rank in (0, 2)), 6 * SILENCE)
    for rank in (0, 2):
        (sentence,) = world.said[rank]
        assert sentence.startswith("rank 1 on ") and f"not been heard of for {SILENCE:g} s" in sentence
    assert not world.said[1]
    close(world)


def test_rank_0_is_named_though_the_store_answers(world: World) -> None:
    """Under torchrun the store is the launcher's, which outlives a killed rank."""
    time.sleep(SILENCE / 2)
    world.die(0)
    until(lambda: all(world.said[rank] for rank in (1, 2)), 6 * SILENCE)
    for rank in (1, 2):
        assert world.said[rank][0].startswith("rank 0 on ") and "not been heard of" in world.said[rank][0]
    close(world)


def test_a_rank_that_leaves_on_its_own_account_is_not_lost(world: World) -> None:
    time.sleep(SILENCE / 2)
    world.watches[2].close()
    time.sleep(2.5 * SILENCE)
    assert not any(world.said.values())
    close(world)


class Slow:
    """A store that takes a while over a count, and keeps it only then; any other word it keeps at once."""

    def __init__(self, store: dist.TCPStore) -> None:
        self._store, self.sets = store, threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def set(self, key: str, value: str) -> None:
        if value.startswith("alive "):
            self.sets.set()
            time.sleep(0.3)
        self._store.set(key, value)


@pytest.mark.parametrize(("leave", "word"), [(RankMonitor.close, b"done"), (lambda w: w.fail("an error"), b"failed")])
def test_the_last_word_stays_the_last(leave: Callable[[RankMonitor], None], word: bytes) -> None:
    """A count that is under way when the rank leaves must not come after it: the rank would seem lost."""
    slow, said = Slow(server()), []
    watch = RankMonitor(slow, MonitorSettings(1, 2, SILENCE), said.append)
    slow.sets.wait()
    leave(watch)
    time.sleep(1)
    assert slow.get("rank 1").startswith(word)


def test_a_rank_that_fails_is_named_at_once_with_its_error(world: World) -> None:
    time.sleep(SILENCE / 2)
    began = time.monotonic()
    world.watches[2].fail("ValueError: no such thing")
    until(lambda: all(world.said[rank] for rank in (0, 1)), 6 * SILENCE)
    assert time.monotonic() - began < SILENCE + 1
    assert all("rank 2 on " in world.said[rank][0] and "no such thing" in world.said[rank][0] for rank in (0, 1))
    close(world)


class Deaf:
    """A store that answered once, and whose host is then gone: calls neither return nor fail for a long while."""

    def __init__(self, store: dist.TCPStore) -> None:
        self._store, self.gone = store, False

    def __getattr__(self, name: str) -> object:
        if self.gone:
            time.sleep(30)
        return getattr(self._store, name)


def test_a_store_that_does_not_answer_means_rank_0_is_lost() -> None:
    store = server()
    store.set("rank 0", "alive headnode 1")
    deaf, said = Deaf(store), []
    watch = RankMonitor(deaf, MonitorSettings(1, 2, SILENCE), said.append)
    time.sleep(SILENCE)
    assert not said
    deaf.gone = True
    until(lambda: bool(said), 5 * SILENCE)
    assert said and said[0].startswith(f"rank 0 on headnode has not been heard of for {SILENCE:g} s")
    assert watch.wait() == said[0]
    watch._sender.closed.set()
