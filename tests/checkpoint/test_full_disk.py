"""A disk that is really full: training goes on or ends as the recipe says, with one sentence, and loses nothing it had.

On a small file system in memory, which only root may mount.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.step_metrics import step_metrics
from support.tiny_run import make_run

from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.discovery import committed_checkpoints, newest_valid
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.config import load_recipe
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.train.callbacks import Callback, CallbackList, Heartbeat, MetricsFile, Tolerant
from megatron_mmbert.train.callbacks.from_recipe import recipe_callbacks
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.trainer import Trainer, build_trainer
from megatron_mmbert.utils.errors import UserError

Between = Callable[[Trainer, list[Callback]], None]
SIZE = 8 << 20  # bytes; a checkpoint of the tiny run takes about half a million


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("tiny"), evaluation={})


def fill(disk: Path, leave: int = 0) -> None:
    """Take all but about ``leave`` bytes."""
    (disk / "spare").write_bytes(bytes(leave))
    with (disk / "filler").open("ab", buffering=0) as file:
        try:
            while file.write(bytes(1 << 16)):
                pass
        except OSError:
            pass
    (disk / "spare").unlink()


class Events(Callback):
    def __init__(self) -> None:
        self.said: list[tuple[str, str]] = []

    def on_event(self, kind: str, text: str) -> None:
        self.said.append((kind, text))


def run(recipe_path: Path, output: Path, between: Between, *overrides: str) -> tuple[Trainer, list[tuple[str, str]]]:
    recipe = load_recipe(recipe_path, ["logging.tensorboard=true", *overrides])
    trainer, events = build_trainer(recipe, recipe.phases[0], output), Events()
    trainer.folder.path.mkdir(parents=True, exist_ok=True)
    writing = [
        Tolerant(Heartbeat(trainer.folder.heartbeat)),
        *recipe_callbacks(recipe, trainer.folder, trainer.counters),
    ]

    def ask() -> bool:
        between(trainer, [events])
        return False

    try:
        train(trainer, [events, *writing], ask)
    finally:
        for callback in writing:
            callback.close()
        trainer.close()
    return trainer, events.said


def fills_after(step: int, disk: Path, frees_after: int | None = None) -> Between:
    def between(trainer: Trainer, callbacks: list[Callback]) -> None:
        if trainer.counters.step == step:
            trainer.checkpoints.wait_for_save(CallbackList(callbacks))
            fill(disk)
        if trainer.counters.step == frees_after:
            trainer.checkpoints.wait_for_save(CallbackList(callbacks))
            (disk / "filler").unlink()

    return between


@pytest.mark.parametrize("asynchronous", [True, False])
def test_training_goes_on_and_saves_again_when_there_is_room(
    asynchronous: bool, recipe_path: Path, runtime: Runtime, disk: Path, tmp_path: Path, capfd: Any
) -> None:
    way = f"checkpoint.asynchronous={str(asynchronous).lower()}"
    run(recipe_path, tmp_path / "roomy", lambda trainer, callbacks: None, way)
    capfd.readouterr()
    trainer, said = run(recipe_path, disk, fills_after(6, disk, frees_after=12), way)
    folder = trainer.folder
    assert [kind for kind, _ in said] == ["save failed"]
    text = said[0][1]
    assert (
        str(folder.checkpoints / "step-000000") in text and "the disk is full" in text and "training continues" in text
    )
    assert "bytes are free and the tensors take" in text
    assert sorted(path.name[0] for path in folder.checkpoints.iterdir()) == ["s", "s"], "nothing half-written"
    for path in committed_checkpoints(folder.checkpoints):
        assert list(checksum_problems(path)) == []
        tensors = CheckpointTensors(path)
        assert all(tensors.load(name).isfinite().all() for name in tensors.names())
    assert read_meta(committed_checkpoints(folder.checkpoints)[-1]).finished
    ours, theirs = (
        [(row["step"], row["loss"]) for row in map(json.loads, (path / "first/metrics.jsonl").open())]
        for path in (disk, tmp_path / "roomy")
    )
    assert ours == theirs, "every step once, and the training is the same"
    printed = capfd.readouterr()
    assert (
        "cannot write ([Errno 28] No space left on device); training continues" in printed.out
        and "Traceback" not in printed.out + printed.err
    )


def test_the_run_ends_if_the_recipe_says_so(recipe_path: Path, runtime: Runtime, disk: Path) -> None:
    with pytest.raises(UserError, match="the disk is full"):
        run(recipe_path, disk, fills_after(6, disk), "checkpoint.on_failure=stop")
    checkpoints = disk / "first/checkpoints"
    assert len(list(checkpoints.iterdir())) == 1
    (disk / "filler").unlink()
    newest = newest_valid(checkpoints)
    assert newest is not None
    trainer, said = run(recipe_path, disk, lambda trainer, callbacks: None)
    assert trainer.counters.phase_tokens >= 6000 and said == [], "it goes on from there"


def test_a_last_save_that_fails_ends_the_command_with_its_sentence(recipe_path: Path, disk: Path) -> None:
    fill(disk, leave=300_000)  # for the small files, not for a checkpoint
    arguments = [str(recipe_path), "--phase", "first", "--output", str(disk / "run"), "phases.first.tokens=1500"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "megatron_mmbert.pretrain", *arguments],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2, done.stderr[-2000:]
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "not saved, the disk is full" in errors[0] and "keep_last" in errors[0]
    assert "Traceback" not in done.stderr + done.stdout
    assert list((disk / "run/first/checkpoints").iterdir()) == []
    assert "not saved" in json.loads((disk / "run/first/failed.json").read_text())["error"]


def test_without_tolerance_the_metrics_would_end_the_run(disk: Path) -> None:
    metrics = MetricsFile(disk / "metrics.jsonl", 0)
    tolerant = Tolerant(metrics)
    fill(disk)
    with pytest.raises(OSError, match="No space"):
        for step in range(1, 1000):
            metrics.on_step(step_metrics(step))
    tolerant.on_step(step_metrics(step + 1))
    (disk / "filler").unlink()
    tolerant.on_step(step_metrics(step + 2))
    tolerant.close()
    rows = [json.loads(line)["step"] for line in (disk / "metrics.jsonl").open()]
    assert rows == list(range(1, step + 3)), "nothing is lost or cut"


def test_two_ranks_on_a_full_disk(disk: Path) -> None:
    script = ROOT / "tests/support/saving_ranks.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(disk), "really-full"],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (disk / "filler").unlink()
    assert sorted(path.name for path in disk.glob("*step*")) == ["step-00000002"]
    assert list(checksum_problems(disk / "step-00000002")) == []
