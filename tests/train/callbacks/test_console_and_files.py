"""The heartbeat, and metrics that survive a resume without a step standing twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from support.step_metrics import step_metrics

from megatron_mmbert.train.callbacks import Callback, CallbackList, Console, Heartbeat, MetricsFile, Tolerant
from megatron_mmbert.train.metrics import StepMetrics, shown


def test_heartbeat_is_whole_and_says_what_happens(tmp_path: Path) -> None:
    path = tmp_path / "heartbeat.json"
    beat = Heartbeat(path)
    assert json.loads(path.read_text())["state"] == "starting"
    beat._EVERY = 0.0
    beat.on_step(step_metrics(4))
    assert json.loads(path.read_text()).items() >= {"state": "training", "step": 4, "phase": "first"}.items()
    beat.on_save(tmp_path / "step-00000004", 0.1, 1.0)
    assert json.loads(path.read_text())["checkpoint"] == "step-00000004"
    beat.close()
    assert json.loads(path.read_text())["state"] == "ended"
    assert [file.name for file in tmp_path.iterdir()] == ["heartbeat.json"]


def test_heartbeat_does_not_write_at_every_step_of_a_fast_run(tmp_path: Path) -> None:
    beat = Heartbeat(tmp_path / "heartbeat.json")
    beat.on_step(step_metrics(1))
    assert json.loads((tmp_path / "heartbeat.json").read_text())["state"] == "starting"


def test_resumed_metrics_hold_each_step_once(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    first = MetricsFile(path, 0)
    for step in (1, 2, 3):
        first.on_step(step_metrics(step))
    first.close()
    path.write_text(path.read_text() + '{"step": 4, "lo')  # cut off by a kill
    again = MetricsFile(path, 2)
    again.on_step(dataclasses.replace(step_metrics(3), loss=9.0))
    again.close()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3] and rows[-1]["loss"] == 9.0


def test_console_line(capsys: pytest.CaptureFixture[str]) -> None:
    Console(1).on_step(step_metrics(2))
    assert capsys.readouterr().out == (
        "first step  2/10  20.0% | loss 3.2500 | lr 1.00e-03 | 1,024 tok/s | mfu 10% | eta 0:00:04\n"
    )


def test_a_new_number_is_shown_where_its_field_says(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    @dataclasses.dataclass(frozen=True)
    class WithGradientNorm(StepMetrics):
        grad_norm: float = dataclasses.field(default=2.5, metadata=shown("grad norm {:.1f}", track=True))

    metrics = WithGradientNorm(**{k: v for k, v in vars(step_metrics(2)).items() if k != "tokens_per_second"})
    Console(1).on_step(metrics)
    assert "| mfu 10% | grad norm 2.5 | eta " in capsys.readouterr().out
    assert metrics.tracked()["train/grad_norm"] == metrics.to_json()["grad_norm"] == 2.5


def test_where_the_numbers_are_shown() -> None:
    """The keys of the file are those that reports and earlier runs have; a tracker gets what is worth a curve."""
    metrics = step_metrics(2)
    assert list(metrics.to_json()) == [
        *("phase", "step", "phase_tokens", "goal_tokens", "total_tokens", "loss", "lr", "mask_ratio", "temperature"),
        *("step_tokens", "seconds", "data_seconds", "mfu", "skipped"),
    ]
    names = ("loss", "lr", "mask_ratio", "temperature", "tokens_per_second", "mfu", "data_seconds", "total_tokens")
    assert metrics.tracked().keys() == {f"train/{name}" for name in names}


def test_lists_and_tolerance_pass_on_every_moment() -> None:
    """A moment added to the base and forgotten there would never reach a wrapped callback."""
    moments = {name for name in vars(Callback) if not name.startswith("_")}
    for wrapper in (CallbackList, Tolerant):
        assert moments <= set(vars(wrapper)), wrapper.__name__
