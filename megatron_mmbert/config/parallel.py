"""Whether a model can be laid over ranks as the recipe's ``parallel`` section says."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from megatron_mmbert.config.recipe import ModelConfig, ParallelConfig


def misfit(parallel: ParallelConfig, model: ModelConfig) -> str | None:
    """Why this model cannot be laid out so, with the remedy; None where it can."""
    sizes = {
        "num_attention_heads": model.num_attention_heads,
        "ffn_hidden_size": model.ffn_hidden_size,
        "vocab_size": model.vocab_size,
    }
    for name, size in sizes.items():
        if size % parallel.tensor:
            return (
                f"parallel.tensor {parallel.tensor} does not divide model.{name} {size}; choose a divisor of all of "
                f"{', '.join(sizes)}"
            )
    given = parallel.layers_per_stage
    if given is not None and sum(given) != model.num_layers:
        return (
            f"parallel.layers_per_stage {given} adds up to {sum(given)} and model.num_layers is "
            f"{model.num_layers}; make them equal"
        )
    if parallel.stages > model.num_layers + 2:
        return (
            f"parallel.pipeline {parallel.pipeline} x virtual_stages {parallel.virtual_stages} is more than "
            f"model.num_layers {model.num_layers} with embedding and head can fill; use fewer stages"
        )
    return None
