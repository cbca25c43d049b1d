"""A phase trains on a store that was imported, to the very losses of the store that the text gave."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT
from support.tiny_run import make_run

from megatron_mmbert.data.mds.exporting import ExportJob, export_mds
from megatron_mmbert.data.mds.importing import import_mds
from megatron_mmbert.data.mds.job import ImportJob


def losses(recipe: Path, output: Path) -> list[float]:
    command = [sys.executable, "-W", "ignore", "-m", "megatron_mmbert", "pretrain", str(recipe), "--phase", "first"]
    command += ["--output", str(output), "phases.first.tokens=2048", "evaluation.stores=[]"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    lines = (output / "first/metrics.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.slow
def test_training_on_an_imported_store(tmp_path: Path) -> None:
    recipe = make_run(tmp_path / "data")
    store, tokenizer = tmp_path / "data/store", tmp_path / "data/tokenizer"
    of_text = losses(recipe, tmp_path / "of_text")
    export_mds(ExportJob(store, tokenizer, tmp_path / "mds"))
    shutil.rmtree(store)
    import_mds(ImportJob((tmp_path / "mds",), tokenizer, store))
    assert losses(recipe, tmp_path / "of_ids") == of_text and len(of_text) >= 4
