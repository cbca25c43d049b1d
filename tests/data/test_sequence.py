"""The global sequence of packs, by digest: the same for any number of ranks and workers, and after 200 stops."""

from __future__ import annotations

import hashlib
import json
import random
from typing import Any

import pytest
from synthetic_source import IDS, small_source
from test_loader import digests

from megatron_mmbert.data.loader import PackLoader
from megatron_mmbert.data.phase import DataPhase

PACKS = 560
SOURCE = small_source()
PHASE = DataPhase(
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
        shares = [digests(rank.next_packs(count)) for rank in ranks]
        packs += [pack for step in zip(*shares, strict=True) for pack in step]
        state = json.dumps(ranks[pick.randrange(dp_size)].state_dict())
        assert len(state) <= 1024
        ranks[0].next_packs(pick.choice([0, 3]))  # work after the last save, lost in the stop
        for rank in ranks:
            rank.close()
    assert whole(packs[:PACKS]) == whole(reference)
