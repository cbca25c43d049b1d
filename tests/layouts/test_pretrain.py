"""The command itself under torchrun: an interleaved pipeline trains, scores held-out text and saves; others go on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_run import make_run

from megatron_mmbert.checkpoint.discovery import committed_checkpoints

LAYOUT = [
    "parallel.pipeline=2",
    "parallel.virtual_stages=2",
    "parallel.distributed_optimizer=true",
    "parallel.overlap=true",
]
COMMON = [
    "model.num_layers=4",
    "phases.first.batch.tokens_per_step=1024",
    "checkpoint.every_tokens=1B",
    "logging.every_steps=1000",
]


def train(recipe: Path, output: Path, ranks: int, *overrides: str) -> str:
    """Run the command; what it said."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, "-W", "ignore", *launcher, "-m", "megatron_mmbert.pretrain", str(recipe)]
    done = subprocess.run(
        [*command, "--phase", "first", "--output", str(output), *COMMON, *overrides],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def run(recipe: Path, output: Path, ranks: int, *overrides: str) -> tuple[list[float], dict[str, dict[str, float]]]:
    """Losses of the steps, and held-out scores by moment and language."""
    train(recipe, output, ranks, *overrides)
    losses = [json.loads(line)["loss"] for line in (output / "first/metrics.jsonl").open()]
    return losses, json.loads((output / "first/bits_per_byte.json").read_text())


def test_four_ranks_train_and_score_as_one_process(tmp_path: Path) -> None:
    recipe = make_run(tmp_path / "data")
    losses, scores = run(recipe, tmp_path / "one", 1)
    many, found = run(recipe, tmp_path / "many", 4, *LAYOUT)
    assert len(losses) >= 5 and many == pytest.approx(losses, rel=1e-5)
    for moment in ("before", "after"):
        assert found[moment] == pytest.approx(scores[moment], rel=1e-5)
    assert committed_checkpoints(tmp_path / "many/first/checkpoints")


def test_other_layouts_replay_the_recorded_batch(tmp_path: Path) -> None:
    """Recorded by one process; replayed by a pipeline in four parts, then by tensor and sequence parallelism."""
    recipe, output = make_run(tmp_path / "data"), tmp_path / "out"
    train(recipe, output, 1, "checkpoint.every_tokens=3000")
    for ranks, layout in ((2, LAYOUT[:2]), (2, ["parallel.tensor=2", "parallel.sequence=true"])):
        shutil.rmtree(committed_checkpoints(output / "first/checkpoints")[-1])
        said = train(recipe, output, ranks, *layout)
        assert "recorded batch replayed: loss " in said
        assert "tensor 1, pipeline 1 x 1, cpu (local), cpu (global) then" in said
