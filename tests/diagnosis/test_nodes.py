"""Whether a node can train, and which nodes differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_run import make_run

from megatron_mmbert.config import load_recipe
from megatron_mmbert.diagnosis.nodes import compare, node_facts, problems


@pytest.fixture(scope="module")
def recipe_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("preflight"))


def test_a_good_node(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    assert list(problems(recipe, tmp_path / "out", gpus=0, min_free_gb=0.01)) == []
    assert node_facts(recipe) == node_facts(recipe)
    other = node_facts(load_recipe(recipe_path, ["seed=6"]))
    assert [name for name, value in node_facts(recipe).items() if other[name] != value] == ["recipe seed"]


def test_what_would_stop_training(recipe_path: Path, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    shard = next(recipe.data.stores[0].glob("*.bin"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-2])
    try:
        found = list(problems(recipe, tmp_path, gpus=3, min_free_gb=1e9))
    finally:
        shard.write_bytes(whole)
    assert len(found) == 3
    assert "GB free and 1e+09 wanted" in found[0]
    assert "0 GPUs are seen and 3 processes would run here" in found[1]
    assert str(shard) in found[2]


def test_nodes_that_differ_are_named(tmp_path: Path) -> None:
    for node, torch in (("node1", "2.13.0"), ("node2", "2.11.0"), ("node3", "2.13.0")):
        (tmp_path / f"{node}.json").write_text(json.dumps({"torch": torch, "code": "ab"}))
    assert list(compare(tmp_path)) == ["torch is not the same on all nodes: 2.13.0 on node1, node3; 2.11.0 on node2"]


def test_nodes_that_do_not_share_the_folder(tmp_path: Path) -> None:
    (tmp_path / "node1.json").write_text(json.dumps({"torch": "2.13.0"}))
    (sentence,) = compare(tmp_path, nodes=2)
    assert "records of node1 alone, and 2 nodes wrote theirs: they do not share this folder" in sentence
    assert list(compare(tmp_path, nodes=1)) == []


def test_command(recipe_path: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "megatron_mmbert.preflight"]
    record = tmp_path / "records"
    arguments = [str(recipe_path), "--output", str(tmp_path / "out"), "--record", str(record), "seed=7"]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True)
    assert done.returncode == 0 and "can train tiny-run" in done.stdout, done.stderr
    assert subprocess.run([*command, "--compare", str(record)]).returncode == 0
    done = subprocess.run([*command, "--compare", str(tmp_path / "out")], capture_output=True, text=True)
    assert done.returncode == 2 and "no records of nodes" in done.stderr
