"""From a recipe's merge section and a command's flags to one merge: every key has a reader, every flag wins."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from support import ROOT

from megatron_mmbert.config.merge import MergeConfig, MergeOptions
from megatron_mmbert.merge.request import MergeRequest, request_from_recipe
from megatron_mmbert.utils.errors import UserError

TOOL = ROOT / "tools" / "merge_ties.py"
DEFAULT = {"base": "base", "models": ["a", "b"]}
RUN = Path("run")


def write_recipe(folder: Path, merge: dict[str, Any] | None) -> Path:
    phase = {
        "tokens": "1M", "mask_ratio": 0.3, "max_length": 128, "lr": 1e-3,
        "batch": {"tokens_per_step": 256, "tokens_per_micro_batch": 128},
    }  # fmt: skip
    phases = [phase | {"name": name} for name in ("base", "a", "b")]
    recipe = {"name": "x", "tokenizer": {"path": "tok"}, "model": {}, "data": {"stores": ["s"]}, "phases": phases}
    path = folder / "r.yaml"
    path.write_text(yaml.safe_dump(recipe | ({} if merge is None else {"merge": merge})))
    return path


def tool(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, TOOL, *map(str, arguments)], capture_output=True, text=True)


READ = {
    "base": ({}, {"base": "a"}),
    "models": ({}, {"models": ["a"]}),
    "method": ({}, {"method": "linear"}),
    "density": ({}, {"density": 0.3}),
    "weights": ({}, {"weights": [1.0, 3.0]}),
    "lambda": ({}, {"lambda": 0.3}),
    "t": ({"method": "slerp"}, {"t": 0.3}),
    "ema_decay": ({"method": "ema"}, {"ema_decay": 0.3}),
}
"""For each key of the section: what the method that reads it needs, and another value of the key."""


def test_every_key_of_the_section_is_tried() -> None:
    keys = {field.alias or name for name, field in MergeConfig.model_fields.items()}
    assert set(READ) == keys - {"allow_different"}, "which changes no merge, but what is refused"


def test_allowed_differences_of_section_and_flag(tmp_path: Path) -> None:
    path = write_recipe(tmp_path, DEFAULT | {"allow_different": ["norm_eps"]})
    request = request_from_recipe(path, [], RUN)
    assert request.changed(None, None, None, {}, ["tokenizer"]).allow_different == ("norm_eps", "tokenizer")


@pytest.mark.parametrize("key", READ)
def test_every_key_of_the_section_changes_the_merge(tmp_path: Path, zoo: Path, key: str) -> None:
    with_method, changed = READ[key]
    results = []
    for merge in (DEFAULT | with_method, DEFAULT | with_method | changed):
        recipe, output = write_recipe(tmp_path, merge), tmp_path / f"out-{len(results)}"
        done = tool("--recipe", recipe, "--run", zoo, "--output", output)
        assert done.returncode == 0, done.stderr
        results.append((output / "model.safetensors").read_bytes())
    assert results[0] != results[1]


def test_overrides_reach_the_merge(tmp_path: Path, zoo: Path) -> None:
    recipe = write_recipe(tmp_path, DEFAULT | {"lambda": 0.5})
    done = tool("--recipe", recipe, "merge.density=0.4", "merge.lambda=0.3", "--run", zoo, "--output", tmp_path / "o")
    assert done.returncode == 0, done.stderr
    options = json.loads((tmp_path / "o" / "merge_report.json").read_text())["options"]
    assert options == {"density": 0.4, "weights": [1.0, 1.0], "lambda": 0.3}


def test_flags_replace_what_the_recipe_says(tmp_path: Path) -> None:
    request = request_from_recipe(write_recipe(tmp_path, DEFAULT | {"density": 0.3, "lambda": 0.8}), (), RUN)
    assert request == MergeRequest("ties", RUN / "base", (RUN / "a", RUN / "b"), MergeOptions(0.3, scale=0.8))
    nothing = dict.fromkeys(("density", "weights", "scale", "t", "ema_decay"))
    assert request.changed(None, None, None, nothing) == request
    changed = request.changed(None, Path("x"), [Path("y")], nothing | {"density": 0.9})
    assert changed == MergeRequest("ties", Path("x"), (Path("y"),), MergeOptions(0.9, scale=0.8))
    other = request.changed("linear", None, None, nothing)
    assert other.options == MergeOptions(), "another method begins with its defaults"
    other.check()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "{recipe}"], "--recipe and --run go together"),
        (["--run", "x"], "--recipe and --run go together"),
        (["merge.t=0.3", "--models", "x"], "'merge.t=0.3'"),
        (["--recipe", "{recipe}", "--run", "x", "merge.t=0.3"], "override 'merge.t=0.3': merge.t: t 0.3 is not read"),
        (["--recipe", "{recipe}", "--run", "x", "merge=null"], "has no merge section"),
        (["--recipe", "{recipe}", "--run", "x", "--density", "2"], "--density: '2' must be above 0"),
    ],
)
def test_bad_arguments_end_with_one_sentence(tmp_path: Path, arguments: list[str], words: str) -> None:
    recipe = write_recipe(tmp_path, DEFAULT)
    done = tool(*(argument.format(recipe=recipe) for argument in arguments), "--output", tmp_path / "out")
    assert done.returncode == 2 and words in done.stderr and done.stderr.count("\n") == 1, done.stderr


def test_a_recipe_without_the_section_names_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"r\.yaml: has no merge section"):
        request_from_recipe(write_recipe(tmp_path, None), (), RUN)
