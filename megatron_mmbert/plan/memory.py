"""Memory of one rank, by formula: weights, gradients, optimizer, activations, head; and the peak of a step.

Activations are what autograd keeps of one micro batch, counted tensor by tensor from the layers' code; the table is in
docs/parallelism.md. A step has three moments that can be its peak: the head's forward pass, with all activations alive;
the end of the backward pass, with the gradient of the tied table; and the optimizer's update. On a CPU the head's
memory is held from one step to the next (``kernels/scratch.py``). What the allocator, CUDA and the libraries hold
beside that is not in here.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from megatron_mmbert.attention.local_blocks import block_size
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.model.memory_saving import chunked_cross_entropy
from megatron_mmbert.optim import stable_adamw
from megatron_mmbert.plan.parallel_layout import (
    ParallelLayout,
    StagePart,
    rank_parameters,
    stage_parts,
    table_parameters,
)

_FP32 = 4


@dataclass(frozen=True)
class Memory:
    """Bytes on one rank.

    Attributes:
        weights, gradients, optimizer: held throughout.
        activations: kept for backward, of all micro batches in flight.
        head: what the head needs beside them while it runs.
        host_copy: of what a checkpoint takes from the rank that writes most, in the host's memory (asynchronous saves).
        peak: the most at any moment of a step.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    head: float
    host_copy: float
    peak: float


def rank_memory(model: ModelConfig, layout: ParallelLayout, rank: int) -> Memory:
    """Return the memory of each tensor- and data-parallel rank of pipeline rank ``rank``."""
    part = stage_parts(model, layout)[rank]
    parameters = rank_parameters(model, layout, part)
    shared_out = layout.data if layout.distributed_optimizer else 1
    weights = layout.weight_bytes * parameters
    gradients = _FP32 * parameters
    optimizer = _FP32 * (3 if layout.precision == "bf16" else 2) * parameters / shared_out
    flying = in_flight(layout, rank)
    activations = flying * micro_batch_bytes(model, layout, part)
    head = head_bytes(model, layout) if part.last else 0.0
    held = _held_by_head(model, layout) if part.last and layout.on_cpu else 0.0
    moments = (
        activations + max(head, max(held, _table_gradient(model, layout, part)) + _layer_scratch(model, layout)),
        max(held, _gradient_at_lookup(model, layout, part)),
        held + _update_scratch(layout, parameters / shared_out),
    )
    # Of equal ranks one writes the weights; the token table's copy on the last of several stages is not written.
    written = parameters - (table_parameters(model, layout.tensor) if part.last and not part.first else 0)
    host_copy = layout.weight_bytes * written + optimizer * written / parameters
    peak = weights + gradients + optimizer + max(moments)
    return Memory(weights, gradients, optimizer, activations, head, host_copy, peak)


def max_memory(model: ModelConfig, layout: ParallelLayout) -> Memory:
    """Return the memory of the pipeline rank with the highest peak."""
    return max((rank_memory(model, layout, rank) for rank in range(layout.pipeline)), key=lambda found: found.peak)


def in_flight(layout: ParallelLayout, rank: int) -> float:
    """Return the micro batches whose activations pipeline rank ``rank`` holds at once; fractions under interleaving."""
    stages_after = layout.pipeline - rank - 1
    if layout.virtual == 1:
        return min(layout.micro_batches, stages_after + 1)
    chunks = min(layout.micro_batches * layout.virtual, 2 * stages_after + (layout.virtual - 1) * layout.pipeline + 1)
    return chunks / layout.virtual


def micro_batch_bytes(model: ModelConfig, layout: ParallelLayout, part: StagePart) -> float:
    """Return the bytes that autograd keeps of one micro batch on a rank."""
    width, kept = model.hidden_size, layout.micro_tokens * layout.weight_bytes
    shared = width / (layout.tensor if layout.sequence else 1)
    per_token = sum(_layer_elements(model, layout, layer) for layer in part.layers)
    per_token += shared  # what the stage hands on: the final norm's input, or the next stage's
    if part.first:
        per_token += 2 * shared  # the embedding before and after its norm
    return per_token * kept + 2 * 2 * layout.micro_tokens * model.head_dim * _FP32  # rotation tables of two bases


def _layer_elements(model: ModelConfig, layout: ParallelLayout, layer: int) -> float:
    """Return the elements per token that autograd keeps of one layer."""
    width, feed, tensor = model.hidden_size, model.ffn_hidden_size, layout.tensor
    shared = width / (tensor if layout.sequence else 1)
    if layout.recompute == "full":
        return shared
    norms = 1 if layer == 0 else 2  # layer 0 has only one
    norms *= 1 if layout.recompute == "light" else 2  # input of each, and output
    dropout = shared / layout.weight_bytes if model.attention_output_dropout else 0  # a mask of one byte
    outer = norms * shared + dropout
    if layout.recompute == "selective":
        return outer + 4 * width / tensor  # queries, keys and values; the attention's output
    gated = 2 * feed if layout.recompute == "light" else 3 * feed  # the feed-forward part before and after its gate
    return outer + (4 * width + gated) / tensor


def _probabilities(model: ModelConfig, layout: ParallelLayout) -> float:
    """Return the elements per token of a local layer's probabilities, a query's over three blocks of keys."""
    return model.num_attention_heads * 3 * block_size(model.window_each_side) if layout.on_cpu else 0


def _layer_scratch(model: ModelConfig, layout: ParallelLayout) -> float:
    """Gradients that live at once in the backward pass of the feed-forward part, and what is computed again; or the
    local layers' probabilities and their gradients."""
    tensor = layout.tensor
    elements = 2 * model.hidden_size + max(3 * model.ffn_hidden_size, 2 * _probabilities(model, layout)) / tensor
    if layout.recompute == "light":
        elements += max(model.ffn_hidden_size, model.hidden_size) / tensor
    elif layout.recompute != "none":
        elements += 3 * model.ffn_hidden_size / tensor
    if layout.recompute == "full":
        elements += (4 * model.hidden_size + _probabilities(model, layout)) / tensor + 4 * model.hidden_size
    return elements * layout.micro_tokens * layout.weight_bytes


def _rows(layout: ParallelLayout) -> float:
    return layout.scored * layout.micro_tokens


def head_bytes(model: ModelConfig, layout: ParallelLayout) -> float:
    """Rows before and after the transform, one chunk of logits, and the gradient of the table's slice."""
    rows = 6 * _rows(layout) * model.hidden_size * layout.weight_bytes
    product = 0.0
    if layout.precision == "bf16":
        elements = min(table_parameters(model, layout.tensor), chunked_cross_entropy.SCRATCH_ELEMENTS[_device(layout)])
        product = layout.weight_bytes * elements
    return rows + _held_by_head(model, layout) + product


def _held_by_head(model: ModelConfig, layout: ParallelLayout) -> float:
    """One chunk of logits, and the gradient of the table's slice."""
    row_bytes = layout.weight_bytes * math.ceil(model.vocab_size / layout.tensor)
    chunk_rows = chunked_cross_entropy.rows_per_chunk(math.ceil(_rows(layout)), row_bytes, _device(layout))
    return chunk_rows * row_bytes + _FP32 * table_parameters(model, layout.tensor)


def _device(layout: ParallelLayout) -> str:
    return "cpu" if layout.on_cpu else "cuda"


def _table_gradient(model: ModelConfig, layout: ParallelLayout, part: StagePart) -> float:
    """The head's, in fp32, that waits for the lookup's."""
    return _FP32 * table_parameters(model, layout.tensor) if part.last else 0.0


def _gradient_at_lookup(model: ModelConfig, layout: ParallelLayout, part: StagePart) -> float:
    """One, which lookup and decoder share where they are on one stage."""
    return (part.first or part.last) * layout.weight_bytes * table_parameters(model, layout.tensor)


def _update_scratch(layout: ParallelLayout, parameters: float) -> float:
    """The optimizer's two temporaries of one bucket of the parameters that this rank updates."""
    return 2 * _FP32 * min(parameters, stable_adamw.SCRATCH_ELEMENTS[_device(layout)])
