"""Bytes that one rank sends in a step, by kind, and whether they leave its node; formulas in docs/parallelism.md.

Collectives are counted as rings: of n bytes over g ranks each sends n (g - 1) / g in an all-gather or reduce-scatter
and twice that in an all-reduce. Left out as too small to matter: the loss, the optimizer's norms, the rows' counts.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.plan.parallel_layout import (
    ParallelLayout,
    StagePart,
    rank_parameters,
    stage_parts,
    table_parameters,
)

_FP32 = 4


@dataclass(frozen=True)
class Traffic:
    """The bytes that a rank sends in a step.

    Attributes:
        layers: tensor-parallel exchanges of its layers; under sequence parallelism also of the norms' gradients.
        embedding: those of the token lookup.
        head: those of the scored rows.
        pipeline: activations to the next stage and gradients to the one before.
        tied: the gradient of the table between first and last stage.
        gradients: their sum over data-parallel ranks.
        weights: updated ones to data-parallel ranks, under the distributed optimizer.
    """

    layers: float
    embedding: float
    head: float
    pipeline: float
    tied: float
    gradients: float
    weights: float

    @property
    def tensor(self) -> float:
        return self.layers + self.embedding + self.head

    @property
    def total(self) -> float:
        return self.tensor + self.pipeline + self.tied + self.gradients + self.weights


@dataclass(frozen=True)
class Inside:
    """The groups of ranks that stay in one node: ranks are numbered tensor first, then data, then pipeline."""

    tensor: bool
    data: bool
    pipeline: bool


def inside_node(layout: ParallelLayout, per_node: int) -> Inside:
    """Return which kinds of groups are inside nodes; a kind counts where every group of it is."""
    spans = (layout.tensor, layout.tensor * layout.data, layout.ranks)
    return Inside(*(span <= per_node and per_node % span == 0 for span in spans))


@dataclass(frozen=True)
class Leaving:
    """The fraction of each kind's bytes that goes to other nodes."""

    tensor: float
    data: float
    pipeline: float


def leaving(layout: ParallelLayout, per_node: int) -> Leaving:
    """Return the fraction of bytes that leaves a node, by kind.

    Of a ring over several nodes one hop in as many as the node has ranks leaves it. Sends between stages all count as
    leaving where some do, as the slowest pair of stages sets the pace.
    """
    inside = inside_node(layout, per_node)
    return Leaving(
        tensor=0.0 if inside.tensor else 1 / min(layout.tensor, per_node),
        data=0.0 if inside.data else 1 / min(layout.data, max(1, per_node // layout.tensor)),
        pipeline=0.0 if inside.pipeline else 1.0,
    )


def rank_traffic(model: ModelConfig, layout: ParallelLayout, rank: int) -> Traffic:
    """Return the traffic of each tensor- and data-parallel rank of pipeline rank ``rank``."""
    part = stage_parts(model, layout)[rank]
    parameters = rank_parameters(model, layout, part)
    ring = _ring(layout.data)
    return Traffic(
        layers=_layers(model, layout, part),
        embedding=part.first * layout.micro_batches * 2 * _ring(layout.tensor) * _hidden(model, layout),
        head=part.last * layout.micro_batches * _head(model, layout),
        pipeline=_pipeline(model, layout, part),
        tied=_FP32 * table_parameters(model, layout.tensor) if layout.pipeline > 1 and (part.first or part.last) else 0,
        gradients=(1 if layout.distributed_optimizer else 2) * ring * _FP32 * parameters,
        weights=ring * layout.weight_bytes * parameters if layout.distributed_optimizer else 0,
    )


def _ring(ranks: int) -> float:
    return (ranks - 1) / ranks


def _hidden(model: ModelConfig, layout: ParallelLayout) -> float:
    return layout.weight_bytes * layout.micro_tokens * model.hidden_size


def _layers(model: ModelConfig, layout: ParallelLayout, part: StagePart) -> float:
    """Return the bytes of the layers' exchanges.

    Two all-reduces of the hidden states forward and two backward, of the last layer all but the last of these of
    its scored rows alone; under sequence parallelism as many pairs of all-gather and reduce-scatter of all rows, and
    two all-gathers more for the weights' gradients."""
    passes = 10 if layout.sequence else 8
    passes += {"none": 0, "light": 0, "selective": 2, "full": 4}[layout.recompute]
    all_passes = float(len(part.layers) * passes)
    if part.last and part.layers and not layout.sequence:
        all_passes -= (passes - 2) * (1 - layout.scored)
    sent = layout.micro_batches * all_passes * _hidden(model, layout)
    if layout.sequence:
        norms = sum(1 if layer == 0 else 2 for layer in part.layers) + part.first + part.last
        sent += 2 * _FP32 * norms * model.hidden_size
    return _ring(layout.tensor) * sent


def _head(model: ModelConfig, layout: ParallelLayout) -> float:
    """Return the head's bytes: the rows' gradient and three fp32 values a row, summed.

    Under sequence parallelism all tokens are gathered before.
    """
    rows = layout.scored * layout.micro_tokens
    sent = 2 * rows * (layout.weight_bytes * model.hidden_size + 3 * _FP32)
    return _ring(layout.tensor) * (sent + (_hidden(model, layout) if layout.sequence else 0))


def _pipeline(model: ModelConfig, layout: ParallelLayout, part: StagePart) -> float:
    if layout.pipeline == 1:
        return 0
    sends = 2 * layout.virtual - part.first - part.last
    return sends * layout.micro_batches * _hidden(model, layout) / (layout.tensor if layout.sequence else 1)
