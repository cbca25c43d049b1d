"""The memory estimate of a plan's layout as a table."""

from __future__ import annotations

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.model.pipeline_split import scored_for_balance
from megatron_mmbert.plan.memory import rank_memory
from megatron_mmbert.plan.parallel_layout import ParallelLayout, parallel_layout
from megatron_mmbert.utils.text_table import table


def memory_table(recipe: Recipe, gpus: int) -> str:
    """One row per pipeline rank, in GB (10^9 bytes), for the phase with the most tokens in a micro batch."""
    layout = largest_layout(recipe, gpus)
    copied = recipe.checkpoint.asynchronous
    rows = [_row(recipe.model, layout, rank, copied) for rank in range(layout.pipeline)]
    header = ["pipeline rank", "weights", "gradients", "optimizer", "activations", "head", "peak", "host copy"]
    title = (
        f"memory of a rank, GB, estimated ({layout.describe()}, {layout.precision}, micro batches of "
        f"{layout.micro_tokens:,} tokens); allocator and libraries come on top; host copy: what an asynchronous save "
        "keeps in the host's memory of the rank that writes most"
    )
    return f"{title}\n{table(header, rows, [True] * len(header))}"


def largest_layout(recipe: Recipe, gpus: int) -> ParallelLayout:
    """The recipe's layout in the phase whose micro batch takes most."""
    ratios = {phase.name: scored_for_balance(phase) for phase in recipe.phases}
    phase = max(recipe.phases, key=lambda each: (each.batch.tokens_per_micro_batch, ratios[each.name]))
    micro = phase.batch.tokens_per_micro_batch
    replicas = max(1, gpus // (recipe.parallel.tensor * recipe.parallel.pipeline))
    count = max(1, phase.batch.tokens_per_step // micro // replicas)
    return parallel_layout(recipe, gpus, micro, ratios[phase.name], count)


def _row(model: ModelConfig, layout: ParallelLayout, rank: int, copied: bool) -> list[str]:
    found = rank_memory(model, layout, rank)
    held = [found.weights, found.gradients, found.optimizer, found.activations, found.head, found.peak]
    held.append(found.host_copy if copied else 0.0)
    return [str(rank), *(f"{part / 1e9:.2f}" for part in held)]
