"""Keys of earlier versions: read in files, overrides and old checkpoints, with a sentence where they can be changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.renamed_keys import RENAMED_KEYS, current_path, rename_keys
from megatron_mmbert.utils.errors import UserError

PLAIN = """\
name: x
tokenizer: {path: tok}
model: {}
data: {stores: [a]}
phases:
  - {name: one, tokens: 1M, mask_ratio: 0.3, max_length: 128, lr: 1e-3,
     batch: {tokens_per_step: 256, tokens_per_micro_batch: 128}}
"""
OLD = """\
numbers: {on_spike: skip, most_in_a_row: 3, slow_rank: 2.5, deterministic: true}
parallel: {tensor: 2, lost_rank_seconds: 5, hung_rank_seconds: 50}
checkpoint: {keep_last: 1, replay: warn}
precision: {dtype: bf16, fp8: block, fp8_linears: [fc1]}
"""
NEW = """\
stability: {on_spike: skip, max_bad_steps: 3}
resilience: {straggler_ratio: 2.5, failed_rank_seconds: 5, hang_seconds: 50}
parallel: {tensor: 2}
checkpoint: {keep_last: 1, resume_check: warn}
precision: {dtype: bf16, fp8: block, fp8_linear_layers: [fc1], deterministic: true}
"""

Load = Callable[..., Recipe]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def load(text: str, *overrides: str) -> Recipe:
        (tmp_path / "r.yaml").write_text(text, encoding="utf-8")
        return load_recipe(tmp_path / "r.yaml", overrides)

    return load


def test_a_file_with_old_keys_is_the_recipe_with_the_new(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    new = load(PLAIN + NEW)
    assert capsys.readouterr().err == ""
    assert load(PLAIN + OLD) == new
    (sentence,) = capsys.readouterr().err.splitlines()
    assert sentence.startswith("warning: ") and "r.yaml: " in sentence
    for words in (
        "numbers.on_spike is now stability.on_spike",
        "numbers.deterministic is now precision.deterministic",
        "parallel.lost_rank_seconds is now resilience.failed_rank_seconds",
    ):
        assert sentence.count(words) == 1
    assert load("preset: tiny\n" + OLD.replace("tensor: 2, ", "") + PLAIN.split("model")[0] + "data: {stores: [a]}\n")


@pytest.mark.parametrize("old", [key for key in RENAMED_KEYS if "." in key])
def test_every_renamed_key_exists_under_its_new_name(old: str) -> None:
    value: Any = Recipe
    for key in RENAMED_KEYS[old].split("."):
        value = value.model_fields[key].annotation


def test_overrides_with_old_keys(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    old = ("numbers.on_spike=skip", "parallel.hung_rank_seconds=7", "numbers={slow_rank: 3, on_non_finite: stop}")
    recipe = load(PLAIN, *old)
    assert (recipe.stability.on_spike, recipe.stability.on_non_finite) == ("skip", "stop")
    assert (recipe.resilience.hang_seconds, recipe.resilience.straggler_ratio) == (7, 3)
    (sentence,) = capsys.readouterr().err.splitlines()
    assert "numbers.slow_rank is now resilience.straggler_ratio" in sentence
    assert load(PLAIN + OLD, "stability.on_spike=stop").stability.on_spike == "stop", "an override is over the file"
    assert load(PLAIN + NEW, "numbers.on_spike=stop").stability.on_spike == "stop"


def test_one_rank_of_many_says_it(load: Load, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    monkeypatch.setenv("RANK", "3")
    load(PLAIN + OLD)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("text", "overrides", "sentence"),
    [
        (
            "numbers: {on_spike: skip}\nstability: {on_spike: stop}\n",
            [],
            "r.yaml: numbers.on_spike is now stability.on_spike, and both are given; keep stability.on_spike",
        ),
        ("checkpoint: {replay: warn, resume_check: warn}\n", [], "checkpoint.replay is now checkpoint.resume_check"),
        (
            "",
            ["numbers.slow_rank=2", "resilience.straggler_ratio=2"],
            "numbers.slow_rank is now resilience.straggler_ratio, and both are given",
        ),
    ],
)
def test_both_names_at_once_are_an_error(text: str, overrides: list[str], sentence: str, load: Load) -> None:
    with pytest.raises(UserError) as caught:
        load(PLAIN + text, *overrides)
    assert sentence in str(caught.value)


def test_a_mistake_under_an_old_key_is_placed_in_the_file(load: Load) -> None:
    with pytest.raises(UserError, match=r"r\.yaml:9: stability\.spike_window 1: "):
        load(PLAIN + "numbers:\n  spike_window: 1\n")
    with pytest.raises(UserError, match=r"r\.yaml:9: unknown key 'stability\.on_spik' .did you mean 'on_spike'"):
        load(PLAIN + "numbers:\n  on_spik: skip\n")
    with pytest.raises(UserError, match=r"override 'numbers\.slow_rank=0': resilience\.straggler_ratio 0: "):
        load(PLAIN, "numbers.slow_rank=0")


def test_the_recipe_in_an_old_checkpoint_is_read_in_silence(load: Load, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody can change what a checkpoint holds."""
    recipe = load(PLAIN + NEW)
    old = recipe.to_dict()
    stability, resilience = old.pop("stability"), old.pop("resilience")
    old["numbers"] = {**stability, "slow_rank": resilience["straggler_ratio"]}
    old["numbers"]["most_in_a_row"] = old["numbers"].pop("max_bad_steps")
    old["numbers"]["deterministic"] = old["precision"].pop("deterministic")
    old["precision"]["fp8_linears"] = old["precision"].pop("fp8_linear_layers")
    old["parallel"] |= {"lost_rank_seconds": resilience["failed_rank_seconds"], "hung_rank_seconds": 50.0}
    old["checkpoint"]["replay"] = old["checkpoint"].pop("resume_check")
    assert Recipe.model_validate(old) == recipe
    assert capsys.readouterr().err == ""
    assert "numbers" in old and "replay" in old["checkpoint"], "what was given stays as it is"


def test_sections_of_no_values() -> None:
    assert rename_keys({"numbers": {}, "stability": {"on_spike": "skip"}})[0] == {"stability": {"on_spike": "skip"}}
    assert rename_keys({"numbers": None})[0] == {"stability": None}
    moved = rename_keys({"numbers": {"deterministic": True}, "precision": None})[0]
    assert moved == {"precision": {"deterministic": True}}
    assert current_path(("phases", "one", "lr")) == ("phases", "one", "lr")
