"""The plan splits the model over pipeline stages as training does."""

from __future__ import annotations

from typing import Any

import pytest

from megatron_mmbert.builders.model import phase_encoder_config
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.model.pipeline_split import balanced_split, head_in_layers
from megatron_mmbert.plan.parallel_layout import stage_parts
from megatron_mmbert.plan.render.memory_table import largest_layout
from megatron_mmbert.plan.scaling import phase_layout


def recipe(mask_ratio: Any, **parallel: int) -> Recipe:
    batch = {"tokens_per_step": 8192, "tokens_per_micro_batch": 1024}
    phase = {"name": "one", "tokens": 1e6, "mask_ratio": mask_ratio, "max_length": 128, "lr": 1e-3, "batch": batch}
    values = {"name": "r", "tokenizer": {"path": "t"}, "data": {"stores": ["s"]}, "phases": [phase], "model": {}}
    return Recipe.model_validate({**values, "parallel": parallel})


def trained_split(of: Recipe) -> list[int]:
    """Layers of each stage, in the order of Megatron-Core's layout that training is built with."""
    config = phase_encoder_config(of, of.phases[0], of.precision)
    stages: Any = config.pipeline_model_parallel_layout
    count = len(stages.layout)
    virtual = [stages.layout[rank][chunk] for chunk in range(len(stages.layout[0])) for rank in range(count)]
    return [sum(layer.name == "decoder" for layer in stage) for stage in virtual]


def planned_split(of: Recipe, layout: Any) -> list[int]:
    """Layers of each stage, from the numbers of the layers that each pipeline rank holds in the plan."""
    held = stage_parts(of.model, layout)
    starts = {layer: rank for rank, part in enumerate(held) for layer in part.layers}
    split: list[int] = []
    for layer in range(of.model.num_layers):
        if layer == 0 or starts[layer] != starts[layer - 1]:
            split.append(0)
        split[-1] += 1
    return split


@pytest.mark.parametrize("parallel", [{"pipeline": 2}, {"pipeline": 3}, {"pipeline": 2, "virtual_stages": 2}])
@pytest.mark.parametrize("mask_ratio", [0.05, 0.3, {"from": 0.05, "to": 0.3}, {"from": 0.3, "to": 0.05}])
def test_training_and_plan_split_alike(mask_ratio: Any, parallel: dict[str, int]) -> None:
    of = recipe(mask_ratio, **parallel)
    trained = [layers for layers in trained_split(of) if layers]
    gpus = of.parallel.pipeline
    assert planned_split(of, largest_layout(of, gpus)) == trained
    assert planned_split(of, phase_layout(of, of.phases[0], of.parallel, gpus)) == trained


def test_a_ramp_is_split_for_its_largest_ratio() -> None:
    assert trained_split(recipe({"from": 0.05, "to": 0.3}, pipeline=2)) == [17, 5]


@pytest.mark.parametrize(("mask_ratio", "expected"), [(0.3, [17, 5]), (0.05, [12, 10])])
def test_a_constant_ratio_is_split_as_ever(mask_ratio: float, expected: list[int]) -> None:
    of = recipe(mask_ratio, pipeline=2)
    assert trained_split(of) == expected == balanced_split(22, 2, head_in_layers(of.model, mask_ratio))
