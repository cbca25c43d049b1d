"""The layout of parameters: the layers of each pipeline stage, and the parameters that a rank holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import Recompute
from megatron_mmbert.config.precision import Dtype
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.model.pipeline_split import balanced_split, head_in_layers


@dataclass(frozen=True)
class ParallelLayout:
    """The layout of a model over ranks, and its micro batch.

    Attributes:
        tensor, pipeline, data: ranks of each kind; their product is the number of ranks.
        virtual: parts of the model on each pipeline rank.
        sequence: whether tokens are shared out over the tensor-parallel ranks between their matrix products.
        distributed_optimizer: whether optimizer state is shared out over the data-parallel ranks.
        micro_tokens: tokens of one micro batch (the largest); ``scored`` is the share of them that reaches the head.
        micro_batches: of one rank in one step.
        rank_tokens: of one rank in one step; None for as many as those micro batches can hold.
        on_cpu: whether the CPU's attention engine and head run.
    """

    # attributes: what the formulas of memory and communication depend on

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    virtual: int = 1
    sequence: bool = False
    distributed_optimizer: bool = False
    recompute: Recompute = "none"
    precision: Dtype = "bf16"
    micro_tokens: int = 8192
    scored: float = 0.3
    micro_batches: int = 1
    rank_tokens: int | None = None
    layers_per_stage: tuple[int, ...] | None = None
    on_cpu: bool = False

    @property
    def ranks(self) -> int:
        return self.tensor * self.pipeline * self.data

    @property
    def step_tokens(self) -> int:
        """Tokens of one rank in one step, padding included."""
        return self.micro_batches * self.micro_tokens if self.rank_tokens is None else self.rank_tokens

    @property
    def weight_bytes(self) -> int:
        return 2 if self.precision == "bf16" else 4

    def with_ranks(self, gpus: int) -> ParallelLayout:
        """Return this layout with as many data-parallel ranks as ``gpus`` allow."""
        return replace(self, data=gpus // (self.tensor * self.pipeline))

    def describe(self) -> str:
        """Return the layout as text: ``tp 2, pp 2 x 2, dp 4, sequence, distributed optimizer``."""
        parts = [f"tp {self.tensor}", f"pp {self.pipeline}" + (f" x {self.virtual}" if self.virtual > 1 else "")]
        parts += [f"dp {self.data}"] + ["sequence"] * self.sequence
        parts += ["distributed optimizer"] * self.distributed_optimizer
        parts += [f"recompute {self.recompute}"] * (self.recompute != "none")
        return ", ".join(parts)


def parallel_layout(
    recipe: Recipe, gpus: int, micro_tokens: int, scored: float, micro_batches: int, rank_tokens: int | None = None
) -> ParallelLayout:
    """Return the recipe's layout over ``gpus``."""
    given = recipe.parallel
    return ParallelLayout(
        tensor=given.tensor,
        pipeline=given.pipeline,
        virtual=given.virtual_stages,
        sequence=given.sequence,
        distributed_optimizer=given.distributed_optimizer,
        recompute=given.recompute,
        precision=recipe.precision.dtype,
        micro_tokens=micro_tokens,
        scored=scored,
        micro_batches=micro_batches,
        rank_tokens=rank_tokens,
        layers_per_stage=None if given.layers_per_stage is None else tuple(given.layers_per_stage),
    ).with_ranks(gpus)


@dataclass(frozen=True)
class StagePart:
    """The part of the model on one pipeline rank: numbers of its layers, and whether it has the model's ends."""

    layers: tuple[int, ...]
    first: bool
    last: bool


def stage_parts(model: ModelConfig, layout: ParallelLayout) -> list[StagePart]:
    """Return the part of each pipeline rank: the recipe's split of layers, or the balanced one that training makes."""
    stages = layout.pipeline * layout.virtual
    head = head_in_layers(model, layout.scored)
    counts = list(layout.layers_per_stage or balanced_split(model.num_layers, stages, head)) if stages > 1 else []
    counts = counts or [model.num_layers]
    starts = [sum(counts[:stage]) for stage in range(stages)]
    held: list[tuple[int, ...]] = [()] * layout.pipeline
    for stage, (start, count) in enumerate(zip(starts, counts, strict=True)):
        held[stage % layout.pipeline] += tuple(range(start, start + count))
    last = layout.pipeline - 1
    return [StagePart(layers, rank == 0, rank == last) for rank, layers in enumerate(held)]


def layer_parameters(model: ModelConfig, layer: int, tensor: int) -> float:
    """Return the parameters of one layer on one tensor-parallel rank; layer 0 has no attention norm."""
    width = model.hidden_size
    cut = 4 * width * width + 3 * width * model.ffn_hidden_size
    return cut / tensor + width * (1 if layer == 0 else 2)


def table_parameters(model: ModelConfig, tensor: int) -> float:
    """Return the parameters of a tensor-parallel rank's slice of the word embedding."""
    return model.vocab_size * model.hidden_size / tensor


def rank_parameters(model: ModelConfig, layout: ParallelLayout, part: StagePart) -> float:
    """Return all parameters of one rank; the last stage has a copy of the word embedding where it is not the first."""
    width = model.hidden_size
    total = sum(layer_parameters(model, layer, layout.tensor) for layer in part.layers)
    if part.first:
        total += table_parameters(model, layout.tensor) + width
    if part.last:
        total += width + width * width + width + model.vocab_size / layout.tensor
        total += 0 if part.first else table_parameters(model, layout.tensor)
    return total
