"""A checkpoint of any layout goes on in any other as if nothing had been: losses, weights, data order and masks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT
from support.save_in_load_in import LAYOUTS, SMALL, label
from support.tiny_run import make_run

from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors

HALF, STEPS = 5, 10
CLOSE = 1e-5  # relative for losses, absolute for weights; fp32


def all_runs(folder: Path, which: str) -> dict[str, Any]:
    batch = {"tokens_per_step": 512, "tokens_per_micro_batch": 128}
    phase = {"name": "first", "tokens": 4900, "mask_ratio": 0.3, "max_length": 64, "lr": 1e-3, "batch": batch}
    recipe = make_run(folder / "data", phases=[phase], evaluation={}, checkpoint={"every_tokens": 10**9})
    script = ROOT / "tests/support/save_in_load_in.py"
    shape = yaml.safe_load(recipe.read_text())
    shape["model"] |= {"num_layers": 4, "num_attention_heads": 4}
    recipe.write_text(yaml.safe_dump(shape))
    shared = os.pathsep.join([str(script.parents[1] / "parallel"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(recipe), str(folder), str(HALF), which],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": shared},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((folder / "runs.json").read_text())


def check(folder: Path, found: dict[str, Any], pairs: list[str]) -> None:
    expected = found["uninterrupted"]
    assert HALF < len(expected["losses"]) and expected["losses"]["1"] > list(expected["losses"].values())[-1] + 0.05
    weights = CheckpointTensors(resolve(folder / "uninterrupted/first"))
    for pair in pairs:
        assert found[pair]["packs"] == expected["packs"], f"{pair}: data or masks"
        assert found[pair]["losses"].keys() == expected["losses"].keys(), pair
        for step, loss in expected["losses"].items():
            assert abs(found[pair]["losses"][step] - loss) <= CLOSE * loss, f"{pair}: step {step}"
        ended = CheckpointTensors(resolve(folder / pair / "first"))
        for name in weights.names():
            assert (ended.load(name) - weights.load(name)).abs().max() <= CLOSE, f"{pair}: {name}"


def test_two_layouts_go_on_from_each_other(tmp_path: Path) -> None:
    found = all_runs(tmp_path, "small")
    check(tmp_path, found, [label(save, load) for save in SMALL for load in SMALL])


@pytest.mark.slow
def test_five_layouts_go_on_from_each_other(tmp_path: Path) -> None:
    """25 pairs; some three minutes."""
    found = all_runs(tmp_path, "all")
    pairs = [label(save, load) for save in LAYOUTS for load in LAYOUTS]
    assert len(pairs) == 25
    check(tmp_path, found, pairs)
