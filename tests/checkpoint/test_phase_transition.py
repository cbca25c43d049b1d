"""From phase to phase, and to longer samples: what starts anew, what stays, and what the user is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from megatron.core import dist_checkpointing
from support.run_to_save import META, SHAPE, Run, assert_equal

from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, read_meta
from megatron_mmbert.checkpoint.phase_transition import explain, extend, transition, write_transition
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.utils.errors import UserError

RunTool = Callable[..., tuple[int, str, str]]
BATCH = {"tokens_per_step": 1024, "tokens_per_micro_batch": 512}
VALUES: dict[str, Any] = {
    "name": "tiny",
    "model": {**SHAPE, "max_length": 512, "attention_output_dropout": 0.1},
    "tokenizer": {"path": "tokenizer"},
    "data": {"stores": ["store"]},
    "phases": [
        {
            **{"name": "pretrain", "tokens": 512, "mask_ratio": 0.3, "temperature": 0.7, "max_length": 256},
            **{"lr": 1e-3, "languages": ["eng_Latn"], "batch": BATCH},
        },
        {
            **{"name": "midtrain", "tokens": 512, "mask_ratio": {"from": 0.2, "to": 0.15}, "temperature": 0.5},
            **{"max_length": 512, "rope_theta": 160_000, "lr": 1e-3, "languages": "all", "batch": BATCH},
        },
        {
            **{"name": "decay", "tokens": 512, "mask_ratio": 0.05, "temperature": 0.3, "max_length": 512},
            **{"rope_theta": 160_000, "rope_theta_local": 10_000, "lr": 5e-4, "optimizer_state": "reset"},
            **{"batch": BATCH},
        },
    ],
}
RECIPE = Recipe.model_validate(VALUES)
OLD = META.model_copy(
    update={
        **{"step": 12, "phase_tokens": 500, "total_tokens": 900, "loader": {"block": 4}, "has_optimizer": True},
        **{"finished": True, "recipe": RECIPE.to_dict(), "tokenizer_fingerprint": "f00", "origin": "random weights"},
    }
)


def test_clocks_and_optimizer() -> None:
    new = transition(OLD, RECIPE, RECIPE.phase("midtrain"))
    assert (new.step, new.phase_tokens, new.loader, new.finished) == (0, 0, {}, False)
    assert new.total_tokens == 900 and new.tokenizer_fingerprint == "f00"
    assert new.phase == "midtrain" and new.recipe == RECIPE.to_dict() and new.model == RECIPE.model
    assert (new.rope_theta, new.rope_theta_local, new.max_length) == (160_000, 160_000, 512)
    assert new.has_optimizer
    assert "pretrain" in new.origin and "12" in new.origin
    assert OLD.step == 12 and OLD.loader == {"block": 4}  # pure


def test_reset_and_local_theta() -> None:
    new = transition(OLD, RECIPE, RECIPE.phase("decay"))
    assert not new.has_optimizer and new.rope_theta_local == 10_000
    weights_only = OLD.model_copy(update={"has_optimizer": False})
    assert not transition(weights_only, RECIPE, RECIPE.phase("midtrain")).has_optimizer


def test_twice_is_once() -> None:
    """A prepared checkpoint, given to training, is prepared again: nothing changes, the origin stays true."""
    once = transition(OLD, RECIPE, RECIPE.phase("midtrain"))
    assert transition(once, RECIPE, RECIPE.phase("midtrain")) == once


def test_what_a_phase_read_becomes_history() -> None:
    """At its place, rounded up to whole blocks; the settings as they were trained, not as the recipe now has them."""
    trained = OLD.model_copy(update={"phase": "pretrain", "loader": {"block": 4, "pack": 1, "fingerprint": "f"}})
    changed = Recipe.model_validate({**VALUES, "seed": 3})
    new = transition(trained, changed, changed.phase("midtrain"))
    (section,) = new.history
    assert section.phase == RECIPE.to_dict()["phases"][0]
    assert (section.seed, section.blocks, section.fingerprint) == (RECIPE.seed, 5, "f")
    assert any(line.startswith("data: continues where pretrain stopped") for line in explain(trained, new))
    again = new.model_copy(update={"loader": {"block": 2, "pack": 0, "fingerprint": "g"}})
    for last in (transition(again, changed, changed.phase("decay")), extend(again, 8192, 200_000)):
        assert [(each.phase["name"], each.blocks, each.seed) for each in last.history] == [
            ("pretrain", 5, RECIPE.seed),
            ("midtrain", 2, 3),
        ]
    assert transition(OLD, RECIPE, RECIPE.phase("midtrain")).history == []  # a place that says too little


def test_explanation() -> None:
    lines = explain(OLD, transition(OLD, RECIPE, RECIPE.phase("midtrain")))
    assert "phase: pretrain -> midtrain" in lines
    assert "counters: step 12 -> 0, tokens of the phase 500 -> 0; 900 tokens in total so far" in lines
    assert "optimizer state: kept" in lines
    assert "theta of global layers: 10000 -> 160000" in lines and "theta of local layers: 10000 -> 160000" in lines
    assert "longest sample: 256 tokens -> 512 tokens" in lines
    assert "mask ratio: 0.3 -> 0.2 to 0.15" in lines and "sampling temperature: 0.7 -> 0.5" in lines
    assert "languages: eng_Latn -> all" in lines
    assert not any("learning rate" in line or line.startswith("note") for line in lines)  # only what changes
    lines = explain(OLD, transition(OLD, RECIPE, RECIPE.phase("decay")))
    assert "optimizer state: reset; moments start empty" in lines and "peak learning rate: 0.001 -> 0.0005" in lines
    unfinished = OLD.model_copy(update={"finished": False, "has_optimizer": False})
    lines = explain(unfinished, transition(unfinished, RECIPE, RECIPE.phase("midtrain")))
    assert any("pretrain was not complete (500 tokens)" in line for line in lines)
    assert "optimizer state: none in the checkpoint; starts empty" in lines


def test_weights_from_elsewhere_are_explained() -> None:
    foreign = CheckpointMeta(model=OLD.model, rope_theta=1e4, rope_theta_local=1e4, max_length=256, origin="hf")
    new = transition(foreign, RECIPE, RECIPE.phase("midtrain"))
    assert new.origin == "hf"
    assert "phase: none -> midtrain" in explain(foreign, new)


def test_extend() -> None:
    new = extend(OLD, 8192, 160_000)
    assert (new.max_length, new.rope_theta, new.rope_theta_local) == (8192, 160_000, 160_000)
    assert (new.step, new.phase_tokens, new.loader, new.finished) == (0, 0, {}, False)
    assert new.total_tokens == 900 and new.has_optimizer and new.model.max_length == 8192
    assert extend(OLD, 8192, 160_000, 10_000).rope_theta_local == 10_000
    assert extend(OLD, 256, 20_000).max_length == 256  # theta alone may grow


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((255, 160_000), "--max-length 255"),
        ((-1, 160_000), "--max-length -1"),
        ((512, 9_999), "--rope-theta 9999"),
        ((512, float("nan")), "--rope-theta nan"),
        ((512, float("inf")), "--rope-theta inf"),
        ((512, 160_000, 5_000), "--rope-theta-local 5000"),
        ((256, 10_000), "already"),
    ],
)
def test_extend_refuses(arguments: tuple[Any, ...], named: str) -> None:
    with pytest.raises(UserError, match=named):
        extend(OLD, *arguments)


def test_written_with_the_optimizer(saved: Path, tmp_path: Path) -> None:
    """Training goes on from the copy as it would from the original."""
    meta = transition(read_meta(saved), RECIPE, RECIPE.phase("midtrain"))
    write_transition(saved, meta, tmp_path / "start")
    assert list(checksum_problems(tmp_path / "start")) == []
    found = read_meta(tmp_path / "start")
    assert found.model_copy(update={"written_at": meta.written_at}) == meta
    first, second = Run(8), Run(9)
    first.load(saved)
    second.load(tmp_path / "start")
    assert_equal(first.state(), second.state())
    assert all(not (each.stat().st_nlink > 1) for each in (tmp_path / "start").iterdir())


def test_written_without_the_optimizer(saved: Path, tmp_path: Path) -> None:
    meta = transition(read_meta(saved), RECIPE, RECIPE.phase("decay"))
    write_transition(saved, meta, tmp_path / "start")
    assert not read_meta(tmp_path / "start").has_optimizer
    stored = dist_checkpointing.load_tensors_metadata(str(tmp_path / "start"))
    assert stored and not [name for name in stored if name.startswith("optimizer")]
    first, second = Run(8), Run(9)
    first.load(saved)
    second.load(tmp_path / "start", with_optimizer=False)
    for (name, mine), other in zip(first.encoder.named_parameters(), second.encoder.parameters(), strict=True):
        assert torch.equal(mine, other), name


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(VALUES))
    return path


@pytest.mark.parametrize("phase", ["midtrain", "decay"])
def test_phase_transition_tool(phase: str, saved: Path, recipe_file: Path, tmp_path: Path, run_tool: RunTool) -> None:
    arguments = ("phase_transition", saved.parent, "--recipe", recipe_file, "--to", phase, "--output", tmp_path / "out")
    status, out, _ = run_tool(*arguments, f"phases.{phase}.rope_theta=50000")
    assert status == 0 and "theta of global layers: 10000 -> 50000" in out and f"wrote {tmp_path / 'out'}" in out
    found = read_meta(tmp_path / "out")
    assert found.phase == phase and found.rope_theta == 50_000 and found.total_tokens == 512
    assert list(checksum_problems(tmp_path / "out")) == []
    status, _, err = run_tool(*arguments)
    assert status == 2 and "--overwrite" in err
    status, out, _ = run_tool(*arguments, "--overwrite")
    assert status == 0 and read_meta(tmp_path / "out").rope_theta == 160_000


def test_tool_refusals(saved: Path, recipe_file: Path, tmp_path: Path, run_tool: RunTool) -> None:
    base = ("phase_transition", saved, "--recipe", recipe_file, "--output", tmp_path / "out", "--to")
    for arguments, named in (
        ((*base, "midtrian"), "did you mean 'midtrain'"),
        ((*base, "midtrain", "model.num_layers=3"), "has num_layers 2 and the recipe 3"),
        ((*base[:1], tmp_path, *base[2:], "midtrain"), "no checkpoint here"),
    ):
        status, _, err = run_tool(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("error: ")]
        assert status == 2 and len(lines) == 1 and named in lines[0], err
    assert not (tmp_path / "out").exists()


def test_extend_context_tool(saved: Path, tmp_path: Path, run_tool: RunTool) -> None:
    base = ("extend_context", saved, "--output", tmp_path / "out")
    status, _, err = run_tool(*base, "--max-length", 128, "--rope-theta", 160_000)
    assert status == 2 and "--max-length 128" in err and not (tmp_path / "out").exists()
    status, out, _ = run_tool(*base, "--max-length", 8192, "--rope-theta", 160_000)
    assert status == 0 and "longest sample: 256 tokens -> 8192 tokens" in out
    found = read_meta(tmp_path / "out")
    assert (found.max_length, found.rope_theta, found.rope_theta_local) == (8192, 160_000, 160_000)
    assert list(checksum_problems(tmp_path / "out")) == []
