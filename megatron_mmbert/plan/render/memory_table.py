"""The memory estimate of a plan's layout as a table."""

from __future__ import annotations

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.plan.memory import rank_memory
from megatron_mmbert.plan.micro_batch import planned_layout
from megatron_mmbert.plan.parallel_layout import ParallelLayout
from megatron_mmbert.utils.text_table import table


def memory_table(recipe: Recipe, gpus: int, memory: float | None = None) -> str:
    """One row per pipeline rank, in GB (10^9 bytes), for the phase with the most tokens in a micro batch.

    Args:
        memory: bytes of one GPU, for which micro batches that the recipe leaves open are chosen.
    """
    layout = largest_layout(recipe, gpus, memory)
    copied = recipe.checkpoint.asynchronous
    rows = [_row(recipe.model, layout, rank, copied) for rank in range(layout.pipeline)]
    header = ["pipeline rank", "weights", "gradients", "optimizer", "activations", "head", "peak", "host copy"]
    title = (
        f"memory of a rank, GB, estimated ({layout.describe()}, {layout.precision}, micro batches of "
        f"{layout.micro_tokens:,} tokens); allocator and libraries come on top; host copy: what an asynchronous save "
        "keeps in the host's memory of the rank that writes most"
    )
    return f"{title}\n{table(header, rows, [True] * len(header))}"


def largest_layout(recipe: Recipe, gpus: int, memory: float | None = None) -> ParallelLayout:
    """The recipe's layout in the phase whose micro batch takes most; ``memory`` as for :func:`memory_table`."""
    layouts = [planned_layout(recipe, phase, gpus, memory) for phase in recipe.phases]
    return max(layouts, key=lambda layout: (layout.micro_tokens, layout.scored))


def _row(model: ModelConfig, layout: ParallelLayout, rank: int, copied: bool) -> list[str]:
    found = rank_memory(model, layout, rank)
    held = [found.weights, found.gradients, found.optimizer, found.activations, found.head, found.peak]
    held.append(found.host_copy if copied else 0.0)
    return [str(rank), *(f"{part / 1e9:.2f}" for part in held)]
