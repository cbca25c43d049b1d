"""Micro batches that the recipe leaves open: as large as the memory estimate allows, and no larger."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_mmbert.config import Recipe, load_recipe
from megatron_mmbert.plan.memory import max_memory
from megatron_mmbert.plan.micro_batch import AUTO_MEMORY_SHARE, layout_with, packs_that_fit, planned_layout
from megatron_mmbert.utils.errors import UserError


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    path = tmp_path / "r.yaml"
    path.write_text("name: mine\npreset: mmbert_base-paper\ntokenizer: {path: none}\ndata: {stores: [none]}\n")
    return load_recipe(path)


@pytest.mark.parametrize("phase", ["pretrain", "midtrain"])
@pytest.mark.parametrize("gigabytes", [24, 80, 141])
def test_one_pack_more_would_not_fit(recipe: Recipe, phase: str, gigabytes: int) -> None:
    chosen, memory = recipe.phase(phase), gigabytes * 1e9
    packs = packs_that_fit(recipe, chosen, 8, memory)
    assert planned_layout(recipe, chosen, 8, memory) == layout_with(recipe, chosen, 8, packs)
    assert max_memory(recipe.model, layout_with(recipe, chosen, 8, packs)).peak <= AUTO_MEMORY_SHARE * memory
    larger = layout_with(recipe, chosen, 8, packs + 1)
    if larger.micro_batches > 1:  # else all packs of a rank fit at once
        assert max_memory(recipe.model, larger).peak > AUTO_MEMORY_SHARE * memory


def test_bounds(recipe: Recipe) -> None:
    midtrain = recipe.phase("midtrain")
    assert packs_that_fit(recipe, midtrain, 8, 1e6) == 1, "the estimate never forbids the run"
    assert packs_that_fit(recipe, midtrain, 576, 141e9) == 1, "a rank has no more"
    assert planned_layout(recipe, midtrain, 8).micro_tokens == 8192, "where no memory is known"
    with pytest.raises(UserError, match="too few for 577 data-parallel ranks"):
        planned_layout(recipe, midtrain, 577)
