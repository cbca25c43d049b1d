"""The sentence about ranks that differ, and that every kind of difference makes one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.tiny_run import make_run

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.resilience.consistency import code_digest, disagreement, fingerprint_facts

RecipeOf = Callable[..., Recipe]


@pytest.fixture(scope="module")
def recipe_of(tmp_path_factory: pytest.TempPathFactory) -> RecipeOf:
    path = make_run(tmp_path_factory.mktemp("agreement"))
    return lambda *overrides: load_recipe(path, list(overrides))


def test_another_value_in_the_recipe_is_named(recipe_of: RecipeOf) -> None:
    one, other = fingerprint_facts(recipe_of(), "first"), fingerprint_facts(recipe_of("phases.second.lr=5e-4"), "first")
    sentence = disagreement([("alpha", one), ("alpha", one), ("beta", other), ("beta", other)])
    assert "ranks disagree on recipe: phases.1.lr is 0.0005 for rank 2 on beta, rank 3 on beta" in sentence
    assert "0.001 for rank 0 on alpha" in sentence and "same recipe" in sentence


def test_another_phase_is_named(recipe_of: RecipeOf) -> None:
    sentence = disagreement(
        [("a", fingerprint_facts(recipe_of(), "first")), ("b", fingerprint_facts(recipe_of(), "second"))]
    )
    assert "recipe: phase is second for rank 1 on b and first for rank 0 on a" in sentence


def test_another_store_is_named(recipe_of: RecipeOf) -> None:
    recipe = recipe_of()
    one = fingerprint_facts(recipe, "first")
    store = str(recipe.data.stores[0])
    other = {**one, "data": {**one["data"], store: "missing"}}
    sentence = disagreement([("a", one), ("b", other)])
    assert f"ranks disagree on data: {store} is missing for rank 1 on b" in sentence and "copy" in sentence


def test_the_manifest_of_a_store_is_part_of_the_facts(recipe_of: RecipeOf, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    before = fingerprint_facts(recipe_of(), "first", [tmp_path])["data"][str(tmp_path)]
    (tmp_path / "manifest.json").write_text('{"documents": 1}')
    assert before != fingerprint_facts(recipe_of(), "first", [tmp_path])["data"][str(tmp_path)] != "missing"
    assert fingerprint_facts(recipe_of(), "first", [tmp_path / "none"])["data"][str(tmp_path / "none")] == "missing"
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="symbolic links"):  # what cannot be read is not said to be missing
        fingerprint_facts(recipe_of(), "first", [tmp_path / "loop"])


def test_one_changed_line_of_code_is_another_version(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    before = code_digest(tmp_path)
    (tmp_path / "a.py").write_text("x = 2\n")
    assert code_digest(tmp_path) != before
    (tmp_path / "a.py").rename(tmp_path / "b.py")
    assert code_digest(tmp_path) != before
