"""Step times by formula, the layout with the smallest, and speeds from 1 to 4,096 GPUs at the recipe's batch.

A step takes its arithmetic at one GPU's speed on the fullest stage, the pipeline's bubble, and the communication that
nothing hides. Latency, slow ranks and reading data are left out, so speeds are upper bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import ParallelConfig, layout_problem
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.model.pipeline_split import EMBEDDING_IN_LAYERS, head_in_layers
from megatron_mmbert.plan.communication import leaving, rank_traffic
from megatron_mmbert.plan.gpus import Gpu
from megatron_mmbert.plan.memory import max_memory
from megatron_mmbert.plan.micro_batch import planned_layout
from megatron_mmbert.plan.parallel_layout import (
    ParallelLayout,
    rank_parameters,
    stage_parts,
    table_parameters,
)
from megatron_mmbert.utils.errors import UserError

MAX_GPUS = 4096
MEMORY_SHARE = 0.9  # the rest is for the allocator, CUDA and the libraries


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step at full batch size, of its slowest pipeline rank."""

    compute: float
    bubble: float
    communication: float

    @property
    def total(self) -> float:
        return self.compute + self.bubble + self.communication


@dataclass(frozen=True)
class Point:
    """The fastest layout of ``gpus`` for a phase; ``efficiency`` is against as many times one GPU's given speed,
    ``without_overlap`` and ``with_overlap`` the same of this layout whatever the recipe's ``overlap`` is."""

    gpus: int
    parallel: ParallelConfig
    layout: ParallelLayout
    step: StepTime
    tokens_per_second: float
    efficiency: float
    without_overlap: float
    with_overlap: float
    days: float


def step_time(model: ModelConfig, layout: ParallelLayout, gpu: Gpu, speed: float, overlap: bool) -> StepTime:
    """Return the time of a step with ``layout``, where one GPU alone trains ``speed`` tokens per second."""
    held = stage_parts(model, layout)
    head = head_in_layers(model, layout.scored)
    costs = [len(part.layers) + part.first * EMBEDDING_IN_LAYERS + part.last * head for part in held]
    fullest = max(costs) / sum(costs)
    one, all_of_them = (
        tokens / (speed * layout.tensor) * fullest for tokens in (layout.micro_tokens, layout.step_tokens)
    )
    sent = max(_exposed(model, layout, rank, gpu, one if overlap else 0.0) for rank in range(layout.pipeline))
    return StepTime(all_of_them, (layout.pipeline - 1) / layout.virtual * one, sent)


def _exposed(model: ModelConfig, layout: ParallelLayout, rank: int, gpu: Gpu, hidden_seconds: float) -> float:
    """Return the seconds of communication that no computation hides.

    Gradients are hidden by the last micro batch's backward pass (2/3 of it), weights by a forward pass; not so the word
    embedding's on the first stage: its gradient is complete when backward ends, and forward begins with it.
    """
    traffic, part = rank_traffic(model, layout, rank), stage_parts(model, layout)[rank]
    shares = leaving(layout, gpu.per_node)
    seconds = _seconds(traffic.tensor, shares.tensor, gpu)
    seconds += _seconds(traffic.pipeline + traffic.tied, shares.pipeline, gpu)
    table = table_parameters(model, layout.tensor) / rank_parameters(model, layout, part) if part.first else 0.0
    for sent, room in ((traffic.gradients, hidden_seconds * 2 / 3), (traffic.weights, hidden_seconds / 3)):
        whole = _seconds(sent, shares.data, gpu)
        seconds += whole - min((1 - table) * whole, room)
    return seconds


def _seconds(sent: float, leaving_share: float, gpu: Gpu) -> float:
    """Return the time of a rank's messages; where they take both kinds of links, the slower sets the pace."""
    return max(sent * (1 - leaving_share) / gpu.node_link, sent * leaving_share / gpu.network)


def phase_layout(
    recipe: Recipe, phase: Phase, parallel: ParallelConfig, gpus: int, memory: float | None = None
) -> ParallelLayout | None:
    """Return the layout of ``phase`` on GPUs of ``memory`` bytes; None where training would refuse it."""
    ranks, pack = parallel.tensor * parallel.pipeline, phase.batch.pack_tokens
    if gpus % ranks or layout_problem(parallel, recipe.model) or (parallel.sequence and pack % parallel.tensor):
        return None
    try:
        layout = planned_layout(recipe.model_copy(update={"parallel": parallel}), phase, gpus, memory)
        stage_parts(recipe.model, layout)
    except (UserError, ValueError):
        return None
    return layout


def candidates(recipe: Recipe, gpus: int, gpu: Gpu) -> list[ParallelConfig]:
    """Return layouts in powers of two to choose from, simplest first; recompute and overlap stay the recipe's."""
    found = []
    for tensor in _powers(min(gpus, gpu.per_node)):
        for pipeline in _powers(min(gpus // tensor, recipe.model.num_layers + 2)):
            for virtual in (1, 2) if pipeline > 1 else (1,):
                for sequence in (False, True) if tensor > 1 else (False,):
                    for shared in (False, True) if gpus > tensor * pipeline else (False,):
                        changes: dict[str, int | None] = {
                            "tensor": tensor,
                            "pipeline": pipeline,
                            "virtual_stages": virtual,
                        }
                        changes |= {"sequence": sequence, "distributed_optimizer": shared, "layers_per_stage": None}
                        found.append(recipe.parallel.model_copy(update=changes))
    return found


def best(recipe: Recipe, phases: Sequence[Phase], speeds: Sequence[float], gpus: int, gpu: Gpu) -> list[Point]:
    """Return a point for each phase, of the layout fastest over all of them; empty where none is legal and fits.

    Args:
        speeds: of one GPU in each phase, tokens per second.
    """
    chosen: list[Point] = []
    for parallel in candidates(recipe, gpus, gpu):
        layouts = [phase_layout(recipe, phase, parallel, gpus, gpu.memory) for phase in phases]
        points = [
            _point(recipe, phase, parallel, layout, speed, gpu)
            for phase, layout, speed in zip(phases, layouts, speeds, strict=True)
            if layout and max_memory(recipe.model, layout).peak <= MEMORY_SHARE * gpu.memory
        ]
        if len(points) == len(phases) and (not chosen or _days(points) < _days(chosen)):
            chosen = points
    return chosen


def _days(points: Sequence[Point]) -> float:
    return sum(point.days for point in points)


def _point(
    recipe: Recipe, phase: Phase, parallel: ParallelConfig, layout: ParallelLayout, speed: float, gpu: Gpu
) -> Point:
    steps = [step_time(recipe.model, layout, gpu, speed, overlap) for overlap in (False, True)]
    alone = phase.batch.tokens_per_step / speed
    efficiencies = [alone / (layout.ranks * step.total) for step in steps]
    efficiency = efficiencies[parallel.overlap]
    rate = efficiency * layout.ranks * speed
    days = phase.tokens / rate / 86_400
    return Point(
        layout.ranks,
        parallel,
        layout,
        steps[parallel.overlap],
        rate,
        efficiency,
        efficiencies[0],
        efficiencies[1],
        days,
    )


def scaling(recipe: Recipe, phase: Phase, speed: float, gpu: Gpu, limit: int = MAX_GPUS) -> list[Point]:
    """Return the fastest layout at each power of two of GPUs; sizes with no legal layout that fits are left out."""
    found = [best(recipe, [phase], [speed], gpus, gpu) for gpus in _powers(limit)]
    return [points[0] for points in found if points]


def _powers(limit: int) -> list[int]:
    return [2**power for power in range(limit.bit_length()) if 2**power <= limit]
