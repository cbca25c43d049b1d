"""Some layouts that cover every mechanism train what one process trains, and leaving a reduction out is noticed.

``bash tests/layouts/run.sh`` compares many more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.layouts import CI, CONTROL_FACTOR, CONTROLS, REPEATED, RESUMED, Layout
from support.tiny_run import make_run

STEPS = 8
OVERRIDES = [
    "model.num_layers=5",
    "model.num_attention_heads=4",
    "phases.first.tokens=100000",
    "phases.first.batch={tokens_per_step: 512, tokens_per_pack: 128}",
    "evaluation.stores=[]",
]


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """All comparisons, made in one process of its own whose ranks are forked."""
    folder = tmp_path_factory.mktemp("layouts")
    script = Path(__file__).with_name("compare.py")
    command = [sys.executable, "-W", "ignore", str(script), str(make_run(folder / "data")), "--rows", "ci"]
    done = subprocess.run(
        [*command, "--steps", str(STEPS), "--output", str(folder), *OVERRIDES],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert (folder / "rows.json").exists(), done.stderr[-3000:]
    return json.loads((folder / "rows.json").read_text())["rows"]


def row(rows: list[dict[str, Any]], kind: str, layout: Layout) -> dict[str, Any]:
    (found,) = [each for each in rows if each["kind"] == kind and each["layout"].startswith(layout.name)]
    return found


@pytest.mark.parametrize("layout", CI, ids=lambda layout: layout.name)
def test_training_equals_one_process(rows: list[dict[str, Any]], layout: Layout) -> None:
    found = row(rows, "equal", layout)
    assert found["holds"], found
    assert found["losses"][1] < found["losses"][0] - 0.1, "it must learn something"
    assert found["largest_rms"] > 1.01, "StableAdamW's RMS must have steered a step"


@pytest.mark.parametrize("layout", CONTROLS, ids=lambda layout: layout.name)
def test_what_is_left_out_is_noticed(rows: list[dict[str, Any]], layout: Layout) -> None:
    found = row(rows, "control", layout)
    assert found["of_bound"] > CONTROL_FACTOR, found


@pytest.mark.parametrize("layout", REPEATED["ci"], ids=lambda layout: layout.name)
def test_the_same_layout_twice_gives_the_same_bits(rows: list[dict[str, Any]], layout: Layout) -> None:
    assert row(rows, "repeated", layout)["holds"]


@pytest.mark.parametrize("layout", RESUMED["ci"], ids=lambda layout: layout.name)
def test_a_resumed_run_has_the_bits_of_the_uninterrupted_one(rows: list[dict[str, Any]], layout: Layout) -> None:
    assert row(rows, "resumed", layout)["holds"]
