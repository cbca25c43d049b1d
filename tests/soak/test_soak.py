"""Sixty kills at the worst moments, each followed by a resume: the run ends as one that was left alone.

bash tests/run.sh -m soak       SOAK_KILLS=60 SOAK_SEED=1 by default
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.killed_run import Killer, Run, differences, make_recipe

from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, finalize
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import META_FILE

KILLS, SEED = int(os.environ.get("SOAK_KILLS", "60")), int(os.environ.get("SOAK_SEED", "1"))
STEPS_PER_KILL = 8

pytestmark = pytest.mark.soak


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("soak")


@pytest.fixture(scope="module")
def recipe(folder: Path) -> Path:
    return make_recipe(folder / "data", STEPS_PER_KILL * KILLS)


@pytest.fixture(scope="module")
def whole(folder: Path, recipe: Path) -> Iterator[Run]:
    """The run that nothing disturbs."""
    run = Run(folder / "whole", recipe)
    assert run.attempt() == 0 and run.finished(), (folder / "whole/001.log").read_text()[-3000:]
    yield run
    run.close()


def test_the_run_survives_all_kills(folder: Path, recipe: Path, whole: Run) -> None:
    run = Run(folder / "killed", recipe)
    killer = Killer(run, SEED)
    for number, moment in enumerate(killer.plan(KILLS)):
        assert not run.finished(), f"over after {number} kills: more steps are needed"
        before = run.newest()
        run.attempt(lambda attempt, moment=moment: killer.strike(moment, attempt))
        print(f"kill {number + 1}: {moment}, step {before} -> {run.newest()}, met {killer.met[moment][-1]}", flush=True)
    for _ in range(3):  # a rank that is starved on a busy machine may be taken for lost
        if not run.finished():
            run.attempt()
    run.close()
    print({moment: f"{sum(met)} of {len(met)}" for moment, met in killer.met.items()}, killer.sent, flush=True)
    assert run.finished(), sorted(run.folder.glob("*.log"))[-1].read_text()[-3000:]
    assert list(differences(run, whole)) == []
    assert all(2 * sum(met) >= len(met) for met in killer.met.values()), f"moments were missed: {killer.met}"


def test_a_sample_left_out_would_be_seen(folder: Path, recipe: Path, whole: Run) -> None:
    """The same comparison, of a run that was resumed one pack too far."""
    run = Run(folder / "skipped", recipe)
    run.checkpoints.parent.mkdir(parents=True)
    start = committed_checkpoints(whole.checkpoints)[0]
    shutil.copytree(start, run.checkpoints / start.name)
    meta = run.checkpoints / start.name / META_FILE
    values = json.loads(meta.read_text())
    values["loader"]["pack"] += 1
    values["finished"] = False
    meta.write_text(json.dumps(values))
    (meta.parent / CHECKSUM_FILE).unlink()
    finalize(meta.parent)
    shutil.copy(whole.folder / "out/first/metrics.jsonl", run.checkpoints.parent)
    run.read = [steps[: values["step"]] for steps in whole.read]
    assert run.attempt() == 0
    run.close()
    found = "\n".join(differences(run, whole))
    assert "read other packs from step" in found and "tensors differ" in found and "metrics.jsonl differ" in found
