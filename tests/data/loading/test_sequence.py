"""The global sequence of packs, by digest of tokens, masks and labels: the same for any number of ranks and workers,
and after 200 stops and 200 kills."""

from __future__ import annotations

import hashlib
import itertools
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from support.packs import digests
from support.synthetic_source import IDS, data_phase, small_source

from megatron_mmbert.data.loading.loader import PackLoader

PACKS = 560
SOURCE = small_source()
PHASE = data_phase(
    "p",
    400_000,
    128,
    1024,
    temperature={"from": 0.7, "to": 0.3},
    mask_ratio={"from": 0.3, "to": 0.15},
    mask_unit="span",
    max_epochs=40.0,
    seed=5,
)


def loader(**settings: Any) -> PackLoader:
    return PackLoader(SOURCE, PHASE, IDS, **settings)


def whole(packs: list[str]) -> str:
    return hashlib.sha256("".join(packs).encode()).hexdigest()


@pytest.fixture(scope="module")
def reference() -> list[str]:
    return digests(loader().next_packs(PACKS))


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("dp_size", [1, 2, 4, 8])
def test_digest_for_any_ranks_and_workers(reference: list[str], dp_size: int, workers: int) -> None:
    ranks = []
    for rank in range(dp_size):
        one = loader(dp_rank=rank, dp_size=dp_size, num_workers=workers if rank == dp_size - 1 else 0)
        ranks.append(digests(one.next_packs(PACKS // dp_size)))
        one.close()
    assert len(set(reference)) == PACKS
    assert whole([pack for step in zip(*ranks, strict=True) for pack in step]) == whole(reference)


def test_digest_after_200_stops(reference: list[str]) -> None:
    """Each time a new loader, as a new process makes it, from the text of the state; with other ranks and workers."""
    pick = random.Random(1)
    state: str | None = None
    packs: list[str] = []
    for stop in range(200):
        dp_size = pick.choice([1, 2, 3])
        count = pick.choice([0, 1, 1, 2]) if stop < 199 else -(-(PACKS - len(packs)) // dp_size)
        workers = 1 if stop % 40 == 7 else 0
        saved = None if state is None else json.loads(state)
        ranks = [loader(dp_rank=r, dp_size=dp_size, state=saved, num_workers=workers) for r in range(dp_size)]
        by_rank = [digests(rank.next_packs(count)) for rank in ranks]
        packs += [pack for step in zip(*by_rank, strict=True) for pack in step]
        state = json.dumps(ranks[pick.randrange(dp_size)].state_dict())
        assert len(state) <= 1024
        ranks[0].next_packs(pick.choice([0, 3]))  # work after the last save, lost in the stop
        for rank in ranks:
            rank.close()
    assert whole(packs[:PACKS]) == whole(reference)


def live(folder: Path, life: int) -> None:
    """Run a trainer's process: resume from the newest state, note every pack, save every few, until it is killed."""
    newest = max(folder.glob("state-*.json"), default=None)
    state = None if newest is None else json.loads(newest.read_text())
    dp_size = 1 + life % 3
    ranks = [loader(dp_rank=r, dp_size=dp_size, state=state, num_workers=int(life % 8 == 5)) for r in range(dp_size)]
    packs: list[str] = []
    for step in itertools.count():
        for round_ in zip(*(digests(rank.next_packs(1)) for rank in ranks), strict=True):
            packs += round_
        if step % 3 == 2:
            done = ranks[0].state_dict()
            staging = folder / f".{life}"
            staging.write_text(json.dumps({**done, "digests": packs}))
            staging.rename(folder / f"state-{done['packs']:08}.json")
            packs = []


def test_digest_after_200_kills(tmp_path: Path) -> None:
    """Processes killed at random moments by SIGKILL, with other numbers of ranks, some with workers."""
    pick, fork = random.Random(2), multiprocessing.get_context("fork")
    for life in range(200):
        process = fork.Process(target=live, args=(tmp_path, life))
        process.start()
        before = len(list(tmp_path.iterdir()))
        if life % 20 == 19:  # now and then wait until it has come further, however slow the machine is
            while len(list(tmp_path.iterdir())) == before and process.is_alive():
                time.sleep(0.005)
        time.sleep(pick.uniform(0.0, 0.06))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    packs: list[str] = []
    for path in sorted(tmp_path.glob("state-*.json")):
        saved = json.loads(path.read_text())
        packs += saved.pop("digests")
        assert saved["packs"] == len(packs) and len(json.dumps(saved)) <= 1024
    assert len(packs) >= 30
    assert packs == digests(loader().next_packs(len(packs)))


def test_a_state_off_by_one_is_noticed(reference: list[str]) -> None:
    """The control: one pack skipped, and one mask ratio's counter lost, give another digest."""
    first = loader()
    first.next_packs(5)
    state = first.state_dict()
    assert digests(loader(state=state).next_packs(50)) == reference[5:55]
    for wrong in ({"pack": 6}, {"tokens": 0}, {"packs": 4}):
        assert digests(loader(state={**state, **wrong}).next_packs(50)) != reference[5:55]
