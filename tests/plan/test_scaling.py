"""The chosen layout is legal and fits, and the forecast of scaling keeps to its bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import layout_problem
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.plan.gpus import gpu_of
from megatron_mmbert.plan.memory import max_memory
from megatron_mmbert.plan.parallel_layout import ParallelLayout, rank_parameters, stage_parts
from megatron_mmbert.plan.scaling import best, scaling, step_time

H100 = gpu_of("h100")


@pytest.fixture(params=["mmbert_base-paper", "mmbert_small-paper", "tiny"])
def recipe(request: pytest.FixtureRequest, tmp_path: Path) -> Recipe:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: mine\npreset: {request.param}\ntokenizer: {{path: none}}\ndata: {{stores: [none]}}\n")
    return load_recipe(path, [])


def test_one_gpu_has_the_given_speed_and_efficiency_only_falls(recipe: Recipe) -> None:
    for phase in recipe.phases[:2]:
        points = scaling(recipe, phase, 1e5, H100)
        assert (points[0].gpus, points[0].tokens_per_second) == (1, pytest.approx(1e5))
        assert points[0].days == pytest.approx(phase.tokens / 1e5 / 86_400)
        efficiencies = [point.efficiency for point in points]
        assert max(efficiencies) <= 1 + 1e-12 and len(points) > 3
        assert efficiencies == sorted(efficiencies, reverse=True)
        for point in points:
            assert point.without_overlap <= point.with_overlap
            assert point.efficiency == (point.with_overlap if point.parallel.overlap else point.without_overlap)


def test_chosen_layouts_are_legal_and_fit(recipe: Recipe) -> None:
    for point in scaling(recipe, recipe.phases[0], 1e5, H100):
        assert layout_problem(point.parallel, recipe.model) is None and point.layout.ranks == point.gpus
        batch = recipe.phases[0].batch
        assert point.layout.data <= batch.tokens_per_step // batch.pack_tokens
        assert max_memory(recipe.model, point.layout).peak <= H100.memory
    assert best(recipe, recipe.phases, [1e5] * len(recipe.phases), 1, replace(H100, memory=1e6)) == []


def test_the_bubble_and_what_overlap_hides() -> None:
    layout = ParallelLayout(pipeline=2, virtual=2, data=2, micro_batches=4)
    slow = step_time(ModelConfig(), layout, H100, 1e4, overlap=False)
    assert slow.bubble == pytest.approx(slow.compute / 4 / 2)
    assert step_time(ModelConfig(), layout, H100, 1e4, overlap=True).communication < slow.communication
    assert step_time(ModelConfig(), ParallelLayout(), H100, 8192, overlap=False).total == pytest.approx(1)


def test_the_tied_table_is_never_hidden() -> None:
    """Of a step so long that all else hides: the table's gradient and weights, over the node's links."""
    layout = ParallelLayout(data=8, distributed_optimizer=True)
    model = ModelConfig()
    exposed = step_time(model, layout, H100, 1.0, overlap=True).communication
    assert exposed == pytest.approx(7 / 8 * (4 + 2) * model.vocab_size * model.hidden_size / H100.node_link)


def test_a_ring_over_nodes_keeps_the_pace_of_its_slower_links() -> None:
    """Of sixteen ranks eight are in each node: an eighth of what each sends leaves it."""
    model, layout = ModelConfig(), ParallelLayout(data=16)
    sent = 2 * 15 / 16 * 4 * rank_parameters(model, layout, stage_parts(model, layout)[0])
    for gpu, seconds in ((H100, sent / 8 / 50e9), (replace(H100, network=100e9), sent * 7 / 8 / 450e9)):
        assert step_time(model, layout, gpu, 1e5, overlap=False).communication == pytest.approx(seconds)
