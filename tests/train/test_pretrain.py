"""The entry point: bad input ends with one sentence and status 2; an interrupted command goes on."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megatron_mmbert import cli
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.train import phase_run
from megatron_mmbert.train.callbacks import stop_request
from megatron_mmbert.utils.errors import UserError


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "megatron_mmbert.pretrain", *arguments]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.yaml", "--phase", "first"], "missing.yaml: no such recipe"),
        (["RECIPE", "--phase", "frist"], "no phase 'frist' (did you mean 'first'?)"),
        (["RECIPE", "--phase", "first", "model.layers=3"], "unknown key 'model.layers'"),
        (["RECIPE", "--phase", "first", "tokenizer.path=nowhere"], "nowhere: no such file or folder"),
        (["RECIPE", "--phase", "first", "data.stores=[nowhere]"], "nowhere"),
        (["RECIPE", "--phase", "first", "phases.first.languages=[xyz]"], "lack language 'xyz'"),
        (["RECIPE", "--phase", "first", "--start-from", "nowhere"], "nowhere: no checkpoint here"),
        (["RECIPE", "--phase", "second"], "no checkpoint here"),
    ],
)
def test_bad_input(arguments: list[str], message: str, recipe_path: Path, tmp_path: Path) -> None:
    filled = [str(recipe_path) if argument == "RECIPE" else argument for argument in arguments]
    done = subprocess.run(command(*filled, "--output", str(tmp_path / "out")), capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2, done.stderr
    assert len(errors) == 1 and message in errors[0]
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").rglob("step-*"))


@pytest.mark.parametrize(
    ("rank", "before", "said"),
    [("0", None, "mine"), ("0", "older", "mine"), ("1", None, "mine"), ("1", "rank 0's", "rank 0's")],
)
def test_the_first_rank_that_fails_says_why(
    rank: str, before: str | None, said: str, recipe_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What one rank alone meets, the others see as its loss; rank 0 knows what all have met."""

    def fail(*_: object) -> bool:
        raise UserError("mine")

    failed = tmp_path / "first/failed.json"
    failed.parent.mkdir()
    if before:
        failed.write_text(json.dumps({"error": before}))
    monkeypatch.setattr(phase_run, "_join_and_train", fail)
    monkeypatch.setattr(stop_request, "StopRequest", lambda *_: None)
    monkeypatch.setenv("RANK", rank)
    with pytest.raises(UserError, match="mine"):
        cli.dispatch(["pretrain", str(recipe_path), "--phase", "first", "--output", str(tmp_path)])
    assert json.loads(failed.read_text()) == {"error": said}


def test_sigterm_saves_and_the_next_run_goes_on(recipe_path: Path, tmp_path: Path) -> None:
    arguments = command(
        str(recipe_path), "--phase", "first", "--output", str(tmp_path), "phases.first.tokens=60000",
        "checkpoint.every_tokens=1B",
    )  # fmt: skip
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        assert process.stdout is not None
        seen = []
        for line in process.stdout:
            seen.append(line)
            if "first step" in line:
                process.send_signal(signal.SIGTERM)
                break
        rest = process.stdout.read()
    assert process.returncode == 75, "".join(seen) + rest
    assert "stopped (SIGTERM), run again to resume" in rest
    stopped = read_meta(committed_checkpoints(tmp_path / "first/checkpoints")[-1])
    assert 0 < stopped.phase_tokens < 60000 and not stopped.finished
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert f"at step {stopped.step}" in done.stdout and "phase first complete" in done.stdout
    again = subprocess.run(arguments, capture_output=True, text=True)
    assert again.returncode == 0 and "phase first is complete" in again.stdout


def test_sigkill_leaves_nothing_half_written(recipe_path: Path, tmp_path: Path) -> None:
    arguments = command(str(recipe_path), "--phase", "first", "--output", str(tmp_path), "checkpoint.every_tokens=600")
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        folder = tmp_path / "first/checkpoints"
        deadline = time.monotonic() + 120
        while not committed_checkpoints(folder) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    done = subprocess.run(arguments, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "resuming" in done.stdout and "phase first complete" in done.stdout
