"""The command itself under torchrun: an interleaved pipeline trains, scores held-out text and saves."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_run import make_run

from megatron_mmbert.checkpoint.folder import complete_checkpoints

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


def run(recipe: Path, output: Path, ranks: int, *overrides: str) -> tuple[list[float], dict[str, dict[str, float]]]:
    """Losses of the steps, and held-out scores by moment and language."""
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(ranks)] if ranks > 1 else []
    command = [sys.executable, "-W", "ignore", *launcher, "-m", "megatron_mmbert.pretrain", str(recipe)]
    done = subprocess.run(
        [*command, "--phase", "first", "--output", str(output), *COMMON, *overrides],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    losses = [json.loads(line)["loss"] for line in (output / "first/metrics.jsonl").open()]
    return losses, json.loads((output / "first/bits_per_byte.json").read_text())


def test_four_ranks_train_and_score_as_one_process(tmp_path: Path) -> None:
    recipe = make_run(tmp_path / "data")
    losses, scores = run(recipe, tmp_path / "one", 1)
    many, found = run(recipe, tmp_path / "many", 4, *LAYOUT)
    assert len(losses) >= 5 and many == pytest.approx(losses, rel=1e-5)
    for moment in ("before", "after"):
        assert found[moment] == pytest.approx(scores[moment], rel=1e-5)
    assert complete_checkpoints(tmp_path / "many/first/checkpoints")
