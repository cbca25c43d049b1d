"""The chosen layout, its communication and the forecast of scaling as tables."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.plan.communication import leaving, rank_traffic
from megatron_mmbert.plan.gpu_forecast import GpuForecast
from megatron_mmbert.plan.gpus import Gpu
from megatron_mmbert.plan.memory import max_memory
from megatron_mmbert.plan.parallel_layout import ParallelLayout
from megatron_mmbert.plan.render.memory_table import largest_layout
from megatron_mmbert.plan.scaling import MAX_GPUS, Point, phase_layout
from megatron_mmbert.report.style import short_count
from megatron_mmbert.utils.text_table import table


def forecast_text(forecast: GpuForecast) -> str:
    """Return the chosen layout, what a rank sends with it, and the forecast of every phase."""
    recipe, gpu, chosen = forecast.recipe, forecast.gpu, forecast.chosen
    parts = [
        choice_text(forecast.given, chosen, gpu),
        traffic_text(recipe.model, largest_layout(recipe, chosen[0].gpus, gpu.memory), gpu),
        *(scaling_text(each.phase, each.points, each.speed, gpu) for each in forecast.phases),
    ]
    return "\n\n".join(parts)


def choice_text(recipe: Recipe, points: Sequence[Point], gpu: Gpu) -> str:
    """One line: which layout, and why."""
    peak = max(max_memory(recipe.model, point.layout).peak for point in points)
    days = sum(point.days for point in points)
    given = [phase_layout(recipe, phase, recipe.parallel, points[0].gpus, gpu.memory) for phase in recipe.phases]
    refused = "" if all(given) else "; the recipe's own layout is not legal for so many"
    return (
        f"layout chosen for {points[0].gpus} {gpu.name}: {points[0].layout.describe()}: of the legal ones that fit "
        f"(peak {peak / 1e9:.1f} of {gpu.memory / 1e9:g} GB) the shortest predicted time, {days:.3g} days{refused}"
    )


def traffic_text(model: ModelConfig, layout: ParallelLayout, gpu: Gpu) -> str:
    """One row per pipeline rank, MB (10^6 bytes) that each of its ranks sends in a step, and over which links."""
    shares = leaving(layout, gpu.per_node)
    header = ["pipeline rank", "layers", "embedding", "head", "pipeline", "tied table", "gradients", "weights"]
    rows = []
    for rank in range(layout.pipeline):
        sent = rank_traffic(model, layout, rank)
        tensor, data = (sent.layers, sent.embedding, sent.head), (sent.gradients, sent.weights)
        away = shares.tensor * sum(tensor) + shares.data * sum(data)
        away += shares.pipeline * (sent.pipeline + sent.tied)
        counts = (*tensor, sent.pipeline, sent.tied, *data, sent.total - away, away)
        rows.append([str(rank), *(f"{count / 1e6:,.1f}" for count in counts)])
    header += ["in the node", "between nodes"]
    title = f"sent by a rank in a step, MB, estimated ({layout.micro_batches} micro batches of a rank)"
    return f"{title}\n{table(header, rows, [True] * len(header))}"


def scaling_text(phase: Phase, points: Sequence[Point], speed: float, gpu: Gpu) -> str:
    """The forecast of a phase, where its scaling ends, and what bounds it."""
    if not points:
        return f"phase {phase.name}: no layout is legal and fits {gpu.name}"
    header = ["GPUs", "layout", "tokens/s", "efficiency", "without\noverlap", "with\noverlap", "days"]
    rows = [
        [
            f"{point.gpus:,}",
            point.layout.describe(),
            short_count(round(point.tokens_per_second)),
            f"{point.efficiency:.1%}",
            f"{point.without_overlap:.1%}",
            f"{point.with_overlap:.1%}",
            f"{point.days:.3g}",
        ]
        for point in points
    ]
    fastest = max(points, key=lambda point: point.tokens_per_second)
    batch = phase.batch
    full = batch.tokens_per_step // batch.pack_tokens
    start = batch.ramp_start_tokens // batch.pack_tokens if batch.ramp_tokens else 0
    bound = f"a step of {full} packs" + (f", {start} at the ramp's start," if start else "")
    counted = {point.gpus for point in points}
    missing = [str(2**power) for power in range(MAX_GPUS.bit_length()) if 2**power not in counted]
    left_out = f"; not legal or too large, and left out: {', '.join(missing)} GPUs" if missing else ""
    title = f"phase {phase.name}: forecast at its full batch, from {speed:,.0f} tokens/s of one {gpu.name}"
    return (
        f"{title}\n{table(header, rows, [True, False, *[True] * 5])}\n"
        f"scaling ends at {fastest.gpus:,} GPUs: {bound} bounds the data-parallel ranks{left_out}"
    )
