"""Tensor, pipeline and data parallelism on gloo train what one process trains, and read each other's checkpoints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_run import make_run

from megatron_mmbert.checkpoint.folder import resolve
from megatron_mmbert.parallel import Runtime

LAYOUTS = ["2x1x1", "1x2x1", "1x1x2", "2x2x1", "1x2x2", "2x1x2+distributed_optimizer", "1x2x2+distributed_optimizer"]
OVERRIDES = [
    "model.num_layers=4",
    "model.attention_output_dropout=0",  # its draws differ between layouts
    "phases.first.tokens=10000",
    "phases.first.batch={tokens_per_step: 1024, tokens_per_micro_batch: 256}",
    "evaluation.stores=[]",
    "checkpoint.keep_last=9",
]
CLOSE = 1e-5  # fp32: sums in another order


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with the run of every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    script = Path(__file__).with_name("train_layouts.py")
    command = [sys.executable, "-W", "ignore", str(script), str(make_run(folder / "data")), str(folder)]
    done = subprocess.run(
        [*command, *OVERRIDES, "1x1x1", *LAYOUTS],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def losses(runs: Path, layout: str) -> list[float]:
    return [json.loads(line)["loss"] for line in (runs / layout / "first/metrics.jsonl").open()]


def weights(runs: Path, layout: str) -> dict[str, torch.Tensor]:
    from megatron_mmbert.checkpoint.tensors import CheckpointTensors

    found = CheckpointTensors(resolve(runs / layout / "first"))
    return {name: found.load(name) for name in found.names()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_training_equals_one_process(runs: Path, layout: str, runtime: Runtime) -> None:
    one, many = losses(runs, "1x1x1"), losses(runs, layout)
    assert len(one) == len(many) >= 9 and one[-1] < one[0] - 0.1
    assert max(abs(a - b) / a for a, b in zip(one, many, strict=True)) < CLOSE
    expected, found = weights(runs, "1x1x1"), weights(runs, layout)
    assert expected.keys() == found.keys()
    for name, tensor in expected.items():
        assert (tensor - found[name]).abs().max() < CLOSE, name
