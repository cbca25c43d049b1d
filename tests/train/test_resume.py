"""What a phase starts from: a model of another tokenizer or theta is refused, in training and in the transition."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_checkpoint import make_checkpoint

from megatron_mmbert.cli import dispatch
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.tokenizer.load import load_tokenizer
from megatron_mmbert.train.callbacks import stop_request
from megatron_mmbert.train.resume import find_starting_point
from megatron_mmbert.train.trainer import build_trainer
from megatron_mmbert.utils.errors import UserError

ALLOWED = "phases.first.allow_different=[tokenizer]"


def test_another_tokenizer_of_the_same_size(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    thetas = {"rope_theta": 1e4, "rope_theta_local": 1e4}
    other = make_checkpoint(tmp_path / "other", recipe.model, tokenizer_fingerprint="f" * 64, **thetas)
    start = find_starting_point(recipe, recipe.phase("first"), tmp_path / "run", other)
    with pytest.raises(UserError, match=r"other: differs from .* in tokenizer \(ffff.*--allow-different tok") as caught:
        build_trainer(recipe, recipe.phase("first"), tmp_path / "run", start)
    assert str(caught.value).count(str(recipe.tokenizer.path)) == 1, "it is not called the checkpoint's own too"
    meant = load_recipe(recipe_path, [ALLOWED])
    build_trainer(meant, meant.phase("first"), tmp_path / "run", start).close()
    for known in ("", load_tokenizer(recipe.tokenizer.path).fingerprint()):
        own = start.meta.model_copy(update={"tokenizer_fingerprint": known})
        build_trainer(recipe, recipe.phase("first"), tmp_path / "run", type(start)(other, own, False)).close()


def test_another_theta(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    path = make_checkpoint(tmp_path / "c", recipe.model, rope_theta=160_000.0, rope_theta_local=10_000.0)
    for phase in ("first", "second"):  # of which the second states the global theta
        with pytest.raises(UserError, match=r"c: differs from phase '.*' of the recipe in rope_theta"):
            find_starting_point(recipe, recipe.phase(phase), tmp_path / "run", path)
    stated = load_recipe(recipe_path, ["phases.second.rope_theta_local=10000"])
    assert find_starting_point(stated, stated.phase("second"), tmp_path / "run", path).meta.rope_theta_local == 1e4


def test_transition_compares_too(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    meta = {"rope_theta": 1e4, "rope_theta_local": 1e4, "tokenizer_fingerprint": "f" * 64}
    path = make_checkpoint(tmp_path / "c", recipe.model, **meta)
    command = ["transition", path, "--recipe", recipe_path, "--to", "second", "--output", tmp_path / "out"]
    with pytest.raises(UserError, match=r"c: differs from .* in tokenizer"):
        dispatch([str(each) for each in command])
    assert not (tmp_path / "out").exists()


def test_flag_of_pretrain_is_the_key_of_the_phase(
    recipe_path: Path, runtime: Runtime, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stop_request, "StopRequest", lambda *_: None)  # it blocks signals as long as the process lives
    command = ["pretrain", recipe_path, "--phase", "first", "--output", tmp_path, "--allow-different", "tokeniser"]
    with pytest.raises(UserError, match=r"--allow-different tokeniser: no such value \(did you mean 'tokenizer'"):
        dispatch([*(str(each) for each in command), "seed=7"])
