"""The size of a micro batch that a recipe leaves open: as many packs as the memory estimate lets a GPU hold."""

from __future__ import annotations

import bisect

from megatron_mmbert.builders.schedules import batch_ramp, step_split
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.model.pipeline_split import scored_for_balance
from megatron_mmbert.plan.memory import max_memory
from megatron_mmbert.plan.parallel_layout import ParallelLayout, parallel_layout
from megatron_mmbert.utils.errors import UserError

AUTO_MEMORY_SHARE = 0.75  # of a GPU: the estimate leaves out the allocator's gaps, CUDA, NCCL and the libraries


def packs_that_fit(recipe: Recipe, phase: Phase, gpus: int, memory: float) -> int:
    """Return the most packs of one micro batch whose estimated peak fits a GPU; at least 1.

    Args:
        memory: bytes of one GPU.
    """

    def too_large(packs: int) -> bool:
        layout = layout_with(recipe, phase, gpus, packs)
        return max_memory(recipe.model, layout).peak > AUTO_MEMORY_SHARE * memory

    largest = -(-phase.batch.tokens_per_step // phase.batch.pack_tokens // _replicas(recipe, gpus))
    return max(1, bisect.bisect_left(range(1, largest + 1), True, key=too_large))


def planned_layout(recipe: Recipe, phase: Phase, gpus: int, memory: float | None = None) -> ParallelLayout:
    """Return the layout in which ``gpus`` train the full steps of ``phase``.

    Args:
        memory: bytes of one GPU; None: where the recipe leaves the micro batch open, it is one pack.

    Raises:
        UserError: the step has too few packs, see :func:`batch_ramp`.
    """
    packs = phase.batch.packs_per_micro_batch
    if packs is None:
        packs = packs_that_fit(recipe, phase, gpus, memory) if memory else 1
    return layout_with(recipe, phase, gpus, packs)


def layout_with(recipe: Recipe, phase: Phase, gpus: int, max_packs: int) -> ParallelLayout:
    """Return the layout in which a micro batch is at most ``max_packs`` packs, whatever the recipe says of it.

    Raises:
        UserError: as :func:`planned_layout`.
    """
    replicas, pack = _replicas(recipe, gpus), phase.batch.pack_tokens
    open_batch = phase.batch.model_copy(update={"tokens_per_pack": pack, "tokens_per_micro_batch": max_packs * pack})
    sized = phase.model_copy(update={"batch": open_batch})
    packs = batch_ramp(sized, replicas, recipe.parallel).full_packs
    step = step_split(sized, replicas, recipe.parallel).split(packs)
    micro, scored = max(step.micro_batches) * pack, scored_for_balance(phase)
    return parallel_layout(recipe, gpus, micro, scored, len(step.micro_batches), step.per_rank * pack)


def _replicas(recipe: Recipe, gpus: int) -> int:
    ranks = recipe.parallel.tensor * recipe.parallel.pipeline
    if gpus < ranks:
        raise UserError(
            f"{gpus} GPUs are fewer than parallel.tensor x parallel.pipeline = {ranks}; use at least {ranks}"
        )
    return gpus // ranks
