"""One optimizer step: several micro batches forward and backward, gradients summed over ranks, one update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_mmbert.attention.interface import with_empty_sequences
from megatron_mmbert.builders.model import build_encoders, wrap_for_data_parallel
from megatron_mmbert.builders.optimizer import build_phase_optimizer
from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.optim.groups import set_hyperparameters
from megatron_mmbert.optim.optimizer import Optimizer
from megatron_mmbert.parallel.runtime import current, from_last_stage, sum_over_data_parallel
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.progress_marker import Stage
from megatron_mmbert.train.gradient_monitor import GradientMonitor
from megatron_mmbert.utils.counter_rng import key64, string_key
from megatron_mmbert.utils.fault_points import Moment, fault_point


@dataclass
class Training:
    """This rank's chunks of the encoder (one, or several under interleaving), their data-parallel wrappers, and the
    optimizer.

    Attributes:
        linear_layers: what the linear layers of the transformer are, for the log.
        gradients: looks at this rank's gradients before they are summed over ranks.
    """

    config: EncoderConfig
    encoders: list[Encoder]
    wrapped: list[DistributedDataParallel]
    optimizer: Optimizer
    linear_layers: str = "torch"
    gradients: GradientMonitor = field(default_factory=GradientMonitor)

    def gather_parameters(self) -> None:
        """Have every rank hold all updated weights now: with overlap they come during the next forward pass."""
        for chunk in self.wrapped:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)


def build_training(
    recipe: Recipe,
    phase: Phase,
    set_weights: Callable[[Encoder, int], None] = initialize,
    micro_batch_tokens: int | None = None,
) -> Training:
    """Build the encoder with fresh weights and its optimizer, laid over ranks as the recipe says; a collective.

    Args:
        set_weights: sets a chunk's weights from the seed.
        micro_batch_tokens: the size at which faster layers are tried; by default that of a pack.
    """
    encoders, linear_layers = build_encoders(recipe, phase, set_weights, micro_batch_tokens)
    wrapped = wrap_for_data_parallel(encoders, recipe.parallel)
    optimizer = build_phase_optimizer(recipe, phase, encoders, wrapped)
    config: EncoderConfig = encoders[0].config
    training = Training(config, encoders, wrapped, optimizer, linear_layers)
    config.finalize_model_grads_func = partial(_finalize, training.gradients)
    return training


def _finalize(gradients: GradientMonitor, chunks: Any, *arguments: Any, **options: Any) -> None:
    """Sum the gradients over ranks, after a look at this rank's own."""
    gradients.look(chunks)
    progress_marker.mark(Stage.GRADIENT_SUM)
    finalize_model_grads(chunks, *arguments, **options)


def packed_params(batch: PackedBatch, dropout_keys: tuple[int, ...] = (0,), max_length: int = 0) -> PackedSequences:
    """Return the layers' view of a micro batch.

    On a GPU packs have bounds of few shapes, and all of them ``max_length`` as their longest sequence's length: kernels
    are planned by both, and the plans of a pack then do for the next.

    Args:
        dropout_keys: for each of its packs, 64 bits that fix its dropout masks.
        max_length: the phase's.
    """
    bounds, longest = batch.cu_seqlens, batch.max_seqlen
    if bounds.is_cuda:
        bounds, longest = with_empty_sequences(bounds, len(batch.tokens_T)), max(longest, max_length)
    return PackedSequences.of(bounds, longest, batch.position_T, dropout_keys)


def training_step(
    training: Training,
    micro_batches: Sequence[PackedBatch],
    lr: float,
    phase: Phase,
    weight_decay: float,
    seed: int,
    accept: Callable[[float], bool] = lambda loss: True,
) -> float:
    """Update the weights once from this rank's micro batches; returns the mean loss per scored token, in nats.

    ``accept`` is asked with that loss when the gradients are there: if it says no, nothing is updated.

    The loss is one global sum over one global count of scored tokens, so it does not depend on how the packs of the
    step are spread over micro batches and ranks; nor does dropout, whose masks are a function of (seed, phase, pack).
    """
    progress_marker.mark(Stage.FORWARD_BACKWARD)
    training.gradients.start()
    for chunk in training.wrapped:
        chunk.train()
        chunk.zero_grad_buffer()
    training.optimizer.zero_grad()
    iterators = [iter(micro_batches) for _ in training.wrapped]
    reports = get_forward_backward_func()(
        forward_step_func=partial(_forward, key64(seed, string_key(phase.name))),
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=training.wrapped,
        num_microbatches=len(micro_batches),
        seq_length=len(micro_batches[0].tokens_T),
        micro_batch_size=1,
    )
    loss = _mean_loss(reports)
    progress_marker.mark(Stage.UPDATE)
    if accept(loss):
        set_hyperparameters(training.optimizer, lr, phase.lr, weight_decay)
        training.optimizer.step()
    return loss


def _forward(key: int, micro_batches: Iterator[PackedBatch], model: DistributedDataParallel) -> tuple[Tensor, Any]:
    fault_point(Moment.FORWARD)
    batch = next(micro_batches).to(current().device)
    keys = tuple(key64(key, index) for index in batch.pack_indices)
    packed = packed_params(batch, keys, model.config.sample_tokens)
    output = model(batch.tokens_T, packed, batch.masked_index_K, batch.label_K)
    return output, partial(_loss, scored=(batch.label_K != IGNORED_LABEL).sum())


def _loss(loss_sum: Tensor, scored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's triple: what is differentiated, what the gradient is divided by once summed, what is reported."""
    report = torch.stack([loss_sum.detach(), scored.float()])
    fault_point(Moment.LOSS, report)
    return loss_sum, scored.int(), report


def _mean_loss(reports: Sequence[Tensor]) -> float:
    totals = torch.stack(list(reports)).sum(0) if reports else torch.zeros(2, device=current().device)
    loss_sum, scored = from_last_stage(sum_over_data_parallel(totals.double())).tolist()
    return loss_sum / scored
