"""tools/report.py as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from support import ROOT

from megatron_mmbert.report.build import write_report
from megatron_mmbert.report.run_reader import read_run


def report(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "report.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


def test_writes_pictures_tables_and_numbers(make_run) -> None:
    output = make_run({"pretrain": ["eng_Latn", "fra_Latn"], "midtrain": ["eng_Latn", "fra_Latn", "gle_Latn"]})
    (output / "merged_bits_per_byte.json").write_text('{"after": {"eng_Latn": 1, "fra_Latn": 2, "gle_Latn": 3}}')
    done = report(output)
    assert done.returncode == 0, done.stderr
    assert "fell in phase midtrain for 3 of 3 languages" in done.stdout
    files = {path.name for path in (output / "report").iterdir()}
    assert files == {"run.png", "bits_per_byte.png", "summary.json", "report.md"}
    found = json.loads((output / "report" / "summary.json").read_text())
    assert found["bits_per_byte"]["merged"]["gle_Latn"] == 3
    page = (output / "report" / "report.md").read_text()
    assert "run.png" in page and "fell in phase midtrain" in page
    again = write_report(read_run(output), output / "report")
    assert [path.name for path in again] == ["run.png", "bits_per_byte.png", "summary.json", "report.md"]
    assert [phase.name for phase in read_run(output).phases] == ["pretrain", "midtrain"], "a report is no phase"


def test_a_folder_without_a_run_is_one_sentence(tmp_path: Path) -> None:
    done = report(tmp_path / "nowhere")
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and "nowhere" in done.stderr and done.stderr.count("\n") == 1
