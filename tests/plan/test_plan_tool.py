"""tools/plan_run.py as a user runs it, and the table of token counts."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from support import ROOT

from megatron_mmbert.plan.token_counts import read_token_counts
from megatron_mmbert.utils.errors import UserError

RECIPE = "name: mine\npreset: tiny\ntokenizer: {path: none}\ndata: {stores: [none]}\n"


def plan(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "tools" / "plan_run.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    (tmp_path / "counts.tsv").write_text("code\ttokens\neng\t1.5M\nfra\t200k\nswh\t\n")
    return path


def test_tables_picture_and_numbers(recipe: Path, tmp_path: Path) -> None:
    figure_file, numbers = tmp_path / "out" / "shares.png", tmp_path / "out" / "plan.json"
    done = plan(
        *(recipe, "--token-counts", tmp_path / "counts.tsv", "--output", figure_file, "phases.pretrain.tokens=3M"),
        *("--output", numbers, "--gpus", 1, "--tokens-per-second", "10k", "data.masking=paper"),
    )
    assert done.returncode == 0, done.stderr
    assert "phase pretrain: 2 languages" in done.stdout and "5.0 minutes" in done.stdout
    assert f"wrote {figure_file}\nwrote {numbers}\n" in done.stdout
    width, height = struct.unpack(">II", figure_file.read_bytes()[16:24])
    assert (width, height) == (1400, 130 + 5 * 62)
    found = json.loads(numbers.read_text())
    assert found["phases"][0]["tokens"] == 3_000_000
    assert found["phases"][0]["forecast"]["hours"] == pytest.approx(300 / 3600)
    assert {use["language"] for use in found["phases"][0]["languages"]} == {"eng", "fra"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--mfu", "0.4"), "--flops-per-second is a peak and --mfu the share"),
        (("--output", "plan.pdf"), "--output plan.pdf: name a file that ends in .png or .json"),
        (("--watts", "700"), "--watts: needs a speed"),
        (("--token-counts", "nowhere.tsv"), "nowhere.tsv: cannot read the token counts"),
    ],
)
def test_bad_input_is_one_sentence(recipe: Path, arguments: tuple[str, ...], said: str) -> None:
    done = plan(recipe, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and said in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\ttokens\neng\t5\n", "counts.tsv:1: neither a column 'language' nor 'code'"),
        ("code\ttoken\neng\t5\n", r"no column 'tokens' \(did you mean 'token'\?\)"),
        ("code\ttokens\neng\tmany\n", "counts.tsv:2: 'many' is no count"),
        ("code\ttokens\neng\t5\neng\t6\n", "counts.tsv:3: twice eng"),
        ("code\ttokens\neng\t-5\n", "counts.tsv:2: '-5' is no count"),
        ("code\ttokens\neng\t0\nfra\t\n", "no language has tokens"),
        ("code\ttokens\n\t7\n", "counts.tsv:2: no language"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "counts.tsv"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_token_counts(path, "tokens", 100)


@pytest.mark.parametrize("name", ["plan.json", "plan.png"])
def test_another_file_is_not_replaced(recipe: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('{"phases": "a recipe or a letter"}')
    done = plan(recipe, "--token-counts", tmp_path / "counts.tsv", "--output", tmp_path / name)
    assert done.returncode == 2 and f"{name}: is not a" in done.stderr
    assert (tmp_path / name).read_text() == '{"phases": "a recipe or a letter"}'
