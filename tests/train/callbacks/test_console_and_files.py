"""The heartbeat, and metrics that survive a resume without a step standing twice."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from support.step_metrics import step_metrics

from megatron_mmbert.train.callbacks import Console, Heartbeat, MetricsFile


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


def test_console_line(capsys: object) -> None:
    Console(1).on_step(step_metrics(2))
    out = capsys.readouterr().out  # type: ignore[attr-defined]
    assert "first step  2/10  20.0% | loss 3.2500 | lr 1.00e-03 | 1,024 tok/s" in out
