"""Damaged files beside the checkpoints are kept under another name, and nothing is cut that is not written again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support.step_metrics import step_metrics

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.train.callbacks import HeldOutFile, MetricsFile


def steps(path: Path) -> list[int]:
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


def written(path: Path, count: int = 4) -> bytes:
    file = MetricsFile(path, 0)
    for step in range(1, count + 1):
        file.on_step(step_metrics(step))
    file.close()
    return path.read_bytes()


@pytest.mark.parametrize(
    "damage",
    [b'{"step": oops}\n', b"\xff\xfe not text\n", bytes(4096) + b"}\n", b"[]\n", b'{"loss": 1}\n', b"\n"],
    ids=["no JSON", "no text", "zeros", "no object", "no step", "empty"],
)
def test_a_damaged_line_is_cut_off_and_said(damage: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    content = written(path)
    path.write_bytes(content + damage)
    MetricsFile(path, 3).close()
    assert steps(path) == [1, 2, 3]
    assert (tmp_path / "metrics.jsonl.1").read_bytes() == content + damage
    assert "1 damaged lines were cut off; the file as it was is metrics.jsonl.1" in capsys.readouterr().err


def test_a_line_cut_off_by_a_kill_is_no_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(written(path) + b'{"step": 5, "lo')
    MetricsFile(path, 4).close()
    assert steps(path) == [1, 2, 3, 4] and not list(tmp_path.glob("*.1"))
    assert capsys.readouterr().err == ""


def test_a_phase_that_begins_anew_keeps_the_old_metrics(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    contents = [written(path, count) for count in (4, 3, 2)]
    assert path.read_bytes() == contents[2]
    assert [(tmp_path / f"metrics.jsonl.{n}").read_bytes() for n in (1, 2)] == contents[:2]


def test_held_out_scores_likewise(tmp_path: Path) -> None:
    path = tmp_path / "held_out.jsonl"
    HeldOutFile(path, 0, 0).on_scores("before", {"eng_Latn": 2.5}, 0)
    content = path.read_bytes()
    path.write_bytes(content + bytes(10) + b"}\n")
    HeldOutFile(path, 5, 100)
    assert path.read_bytes() == content
    HeldOutFile(path, 0, 0)
    assert path.read_bytes() == b"" and (tmp_path / "held_out.jsonl.2").read_bytes() == content


@pytest.mark.parametrize("content", [b'{"before": {"a": 1', b"\xff", b"[]", bytes(64)])
def test_a_damaged_small_file_is_kept_and_begun_anew(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = PhaseFolder(tmp_path.parent, tmp_path.name)
    folder.scores.write_bytes(content)
    assert folder.read(folder.scores) == {}
    assert (tmp_path / "bits_per_byte.json.1").read_bytes() == content and not folder.scores.exists()
    assert "bits_per_byte.json: damaged" in capsys.readouterr().err


def test_metrics_are_json_without_nan(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path, 0)
    file.on_step(step_metrics(1, loss=float("nan")))
    file.close()
    assert "NaN" not in path.read_text() and json.loads(path.read_text())["loss"] is None
