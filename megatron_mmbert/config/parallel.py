"""The recipe's ``parallel`` section: how the model is laid out over ranks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import model_validator

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.model import MAX_LAYERS, ModelConfig
from megatron_mmbert.config.values import PositiveCount, within
from megatron_mmbert.utils.bounds import MAX_RANKS

Recompute = Literal["none", "light", "selective", "full"]


class ParallelConfig(Section):
    """The layout of the model over ranks; data parallelism takes what is left of the world size."""

    tensor: Annotated[int, within(1, MAX_RANKS)] = 1
    """Ranks that share each matrix product; a divisor of heads, feed-forward width and vocabulary."""
    sequence: bool = False
    """Sequence parallelism: between the tensor-parallel matrix products each rank holds its share of the tokens."""
    pipeline: Annotated[int, within(1, MAX_LAYERS)] = 1
    """Ranks that hold successive layers."""
    virtual_stages: Annotated[int, within(1, MAX_LAYERS)] = 1
    """Parts of the model per pipeline rank; more than 1 interleaves them, which shortens the pipeline's bubble."""
    layers_per_stage: list[Annotated[int, within(0, MAX_LAYERS)]] | None = None
    """Layers of each stage in order (pipeline x virtual_stages of them); by default balanced, counting the embedding
    and the head as layers."""
    distributed_optimizer: bool = False
    """Shard the optimizer's state (masters and moments) over the data-parallel ranks."""
    overlap: bool = False
    """Reduce gradients over data-parallel ranks during backward, and with the distributed optimizer gather updated
    weights during forward."""
    bucket_elements: PositiveCount = 40_000_000
    """Gradients that one such reduction takes at a time."""
    recompute: Recompute = "none"
    """Activations computed again in backward to save memory: of norms and GeGLU (light, which repeats no matrix
    product), of attention and feed-forward (selective), or of whole layers (full)."""
    timeout_minutes: Annotated[float, within(0.05, 100_000)] = 30.0
    """Minutes: the longest wait for ranks that are alive, in one exchange."""

    @property
    def stages(self) -> int:
        """The number of pipeline stages, virtual ones included."""
        return self.pipeline * self.virtual_stages

    @model_validator(mode="after")
    def _possible(self) -> ParallelConfig:
        if self.virtual_stages > 1 and self.pipeline == 1:
            raise ValueError(
                f"virtual_stages {self.virtual_stages} needs pipeline 2 or more; set it to 1 or raise pipeline"
            )
        if self.layers_per_stage is not None and len(self.layers_per_stage) != self.stages:
            raise ValueError(
                f"layers_per_stage has {len(self.layers_per_stage)} numbers for {self.stages} stages (pipeline "
                f"{self.pipeline} x virtual_stages {self.virtual_stages}); give one for each"
            )
        return self


def layout_problem(parallel: ParallelConfig, model: ModelConfig) -> str | None:
    """Return why this model cannot be laid out so, with the remedy; None where it can."""
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
