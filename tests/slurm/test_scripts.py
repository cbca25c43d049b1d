"""What can be said of the job scripts without a cluster: their syntax, and the graph that would be submitted."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

SCRIPTS = sorted((ROOT / "slurm").glob("*.sh"))
JOBS = [script for script in SCRIPTS if script.name not in ("lib.sh", "site.sh", "pipeline.sh")]


def pipeline(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", "slurm/pipeline.sh", *arguments]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_syntax(script: Path) -> None:
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr


@pytest.mark.parametrize("script", JOBS, ids=lambda path: path.name)
def test_every_job_may_be_requeued_and_keeps_its_log(script: Path) -> None:
    text = script.read_text()
    assert {"#SBATCH --requeue", "#SBATCH --open-mode=append"} <= set(text.splitlines())
    assert "#SBATCH --partition" not in text and "#SBATCH --account" not in text, "those are the site file's"


def test_dry_run_prints_the_graph_and_submits_nothing() -> None:
    done = pipeline("--dry-run", "--corpus", "examples", "--shards", "3", "examples/quickstart.yaml", "seed=4")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    names = [
        "preprocess.sh part",
        "preprocess.sh join",
        "pretrain.sh",
        "midtrain.sh",
        "decay.sh",
        "merge_and_convert.sh",
    ]
    assert len(lines) == 7 and "evaluate.sh" in lines[-1]
    for line, name in zip(lines, names, strict=False):
        assert f"slurm/{name}" in line and "--kill-on-invalid-dep=yes" in line and "seed=4" in line
    assert "--array=1-3" in lines[0] and "--array=0-2" in lines[4]
    assert all("--dependency=afterok:" in line for line in lines[1:]) and "--dependency" not in lines[0]


CHAIN = """\
name: chain
preset: tiny
tokenizer: {path: tok}
data: {stores: [a]}
merge: null
phases:
  - {name: fifth, from: decay_all, tokens: 1M}
"""


def test_the_graph_is_the_recipes(tmp_path: Path) -> None:
    """A chain of phases with other names, and a phase that two others start from."""
    recipe = tmp_path / "recipe.yaml"
    batch = "mask_ratio: 0.1, max_length: 100, lr: 1e-5, batch: {tokens_per_step: 256, tokens_per_micro_batch: 128}"
    recipe.write_text(CHAIN.replace("tokens: 1M", f"tokens: 1M, {batch}"))
    done = pipeline("--dry-run", str(recipe), "--output", "runs/chain")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    phases = ["pretrain", "midtrain", "decay_eng", "decay_cont", "decay_all", "fifth"]
    assert len(lines) == len(phases) and "--dependency" not in lines[0]
    for line, phase, before in zip(lines[1:], phases[1:], [*phases[:1], *["midtrain"] * 3, "decay_all"], strict=True):
        assert f"--phase {phase} " in line and f"<{before}" in line.replace("\\", "") and "--output runs/chain" in line


def test_no_text_of_a_recipe_or_an_override_is_run(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(CHAIN.split("phases")[0].replace("name: chain", "name: $(touch ran)"))
    assert pipeline("--dry-run", str(recipe)).returncode == 2
    recipe.write_text(CHAIN.split("phases")[0])
    done = pipeline("--dry-run", str(recipe), f"tokenizer.path=$(touch {tmp_path}/ran)")
    assert done.returncode == 0 and "\\$\\(touch" in done.stdout, done.stderr
    assert not (tmp_path / "ran").exists() and not (ROOT / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.yaml",), "'nowhere.yaml' is no recipe file"),
        (("--wrong", "examples/quickstart.yaml"), "unknown option --wrong"),
        (("--dry-run", "examples/quickstart.yaml", "sed=4"), "unknown key 'sed'"),
    ],
)
def test_bad_arguments(arguments: tuple[str, ...], message: str) -> None:
    done = pipeline(*arguments)
    assert done.returncode == 2 and message in done.stderr and not done.stdout


def test_the_merge_gets_the_recipe_and_all_overrides(tmp_path: Path) -> None:
    """The job hands on the recipe whole: no key of its merge section can be forgotten by the script."""
    called = tmp_path / "called"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/bash\n[[ $1 == tools/* ]] && {{ echo "$*" >>"{called}"; exit 0; }}\nexec "{sys.executable}" "$@"\n'
    )
    python.chmod(0o755)
    overrides = ["merge.lambda=0.3", "merge.density=0.4"]
    command = ["bash", "slurm/merge_and_convert.sh", "examples/quickstart.yaml", "--output", tmp_path, *overrides]
    environment = os.environ | {"PYTHON": str(python)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    merge, convert = called.read_text().splitlines()
    recipe = " ".join(["--recipe examples/quickstart.yaml", *overrides])
    assert merge == f"tools/merge_ties.py {recipe} --run {tmp_path} --output {tmp_path}/merged"
    assert convert.startswith(f"tools/convert_to_hf.py {tmp_path}/merged --tokenizer ")
