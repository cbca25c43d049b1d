"""From the recipe to the loader of a phase. Apart from :mod:`.data`, which a plan uses without torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from megatron_mmbert.builders.data import check_source_names, data_phase, stores_of, token_ids, trained_resume_points
from megatron_mmbert.checkpoint.metadata import TrainedSection
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.loading.step_split import StepPacks
from megatron_mmbert.parallel.runtime import Runtime, print_once
from megatron_mmbert.tokenizer.load import Tokenizer


def build_loader(
    recipe: Recipe,
    phase: Phase,
    tokenizer: Tokenizer,
    history: Iterable[TrainedSection],
    runtime: Runtime,
    step_packs: Callable[[int], StepPacks] | None = None,
) -> PackLoader:
    """Return the loader of this rank's packs of a phase.

    Args:
        history: the phases before it, whose text does not come again before its dataset's epoch is over.
        step_packs: see :class:`PackLoader`.

    Raises:
        UserError: a store that cannot be read, was made with another tokenizer, or lacks a language of the phase.
    """
    ids = token_ids(tokenizer, with_words=recipe.data.masking_unit == "word")
    stores = stores_of(recipe.data.stores, tokenizer, recipe.data.check_share)
    check_source_names(recipe, stores)
    places = trained_resume_points(recipe, history, stores, print_once)
    return PackLoader(
        stores,
        data_phase(recipe, phase, stores, print_once, places),
        ids,
        runtime.dp_rank,
        runtime.dp_size,
        num_workers=recipe.data.workers_on(runtime.device.type),
        pin_memory=runtime.device.type == "cuda",
        step_packs=step_packs,
    )
