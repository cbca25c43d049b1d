"""One optimizer step: several packs forward and backward, gradients summed over ranks, one update."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_mmbert.config.constants import IGNORED_LABEL
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.config.recipe import ParallelConfig, Phase, Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.kernels.compiled import switch_off
from megatron_mmbert.model.config import EncoderConfig, encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize, logical_parameters
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.pipeline_split import scored_for_balance
from megatron_mmbert.model.te_layers import resolve_precision
from megatron_mmbert.optim.groups import OptimizerSettings, build_optimizer, set_hyperparameters
from megatron_mmbert.parallel.runtime import current, from_last_stage, sum_over_data_parallel
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.train.gradient_monitor import GradientMonitor
from megatron_mmbert.utils.counter_rng import key64, string_key


@dataclass
class Training:
    """What is trained: this rank's chunks of the encoder (one, or several under interleaving), their data-parallel
    wrappers, and the optimizer."""

    config: EncoderConfig
    encoders: list[Encoder]
    wrapped: list[DistributedDataParallel]
    optimizer: Any
    linears: str = "torch"
    """What the body's linears are, for the log."""
    watch: GradientMonitor = field(default_factory=GradientMonitor)

    def gather_parameters(self) -> None:
        """Have every rank hold all updated weights now: with overlap they come during the next forward pass."""
        for chunk in self.wrapped:
            if chunk.ddp_config.overlap_param_gather:
                chunk.start_param_sync(force_sync=True)


def build(recipe: Recipe, phase: Phase) -> Training:
    """The encoder with fresh weights and the optimizer, laid out as the recipe says."""
    runtime, layout = current(), recipe.parallel
    if recipe.precision.compile == "none":
        switch_off()
    tokens = phase.batch.tokens_per_micro_batch
    precision, linears = resolve_precision(recipe.precision, recipe.model, tokens, layout.tensor)
    config = phase_encoder_config(recipe, phase, precision)
    encoders = []
    for chunk in range(layout.virtual_stages):
        first = runtime.is_first_stage and chunk == 0
        last = runtime.is_last_stage and chunk == layout.virtual_stages - 1
        number = chunk if layout.virtual_stages > 1 else None
        encoders.append(Encoder(config, recipe.model.vocab_size, first, last, number).to(runtime.device))
        initialize(encoders[-1], recipe.seed)
    wrapped = [
        DistributedDataParallel(config, _reduction(layout), encoder, disable_bucketing=number > 0)
        for number, encoder in enumerate(encoders)
    ]
    if layout.overlap:
        no_sync = [chunk.no_sync for chunk in wrapped]
        config.no_sync_func = no_sync if len(no_sync) > 1 else no_sync[0]
    settings = OptimizerSettings(
        peak_lr=phase.lr,
        weight_decay=weight_decay_of(recipe, phase),
        betas=recipe.optimizer.betas,
        eps=recipe.optimizer.eps,
        precision=recipe.precision.dtype,
        distributed=layout.distributed_optimizer,
    )
    named = [pair for encoder in encoders for pair in logical_parameters(encoder)]
    training = Training(config, encoders, wrapped, build_optimizer(wrapped, settings, named), linears)
    config.finalize_model_grads_func = partial(_finalize, training.watch)
    return training


def phase_encoder_config(recipe: Recipe, phase: Phase, precision: PrecisionConfig) -> EncoderConfig:
    """Return the configuration of ``phase``; ``precision`` comes from ``model.te_layers.resolve_precision``."""
    thetas, scored = (phase.rope_theta, phase.theta_local), scored_for_balance(phase)
    return encoder_config(recipe.model, *thetas, recipe.parallel, precision, scored, phase.max_length)


def _finalize(watch: GradientMonitor, chunks: Any, *arguments: Any, **options: Any) -> None:
    """Sum the gradients over ranks, after a look at this rank's own."""
    watch.look(chunks)
    progress_marker.at("the sum of gradients")
    finalize_model_grads(chunks, *arguments, **options)


def _reduction(layout: ParallelConfig) -> DistributedDataParallelConfig:
    """How gradients are summed over data-parallel ranks, always in fp32."""
    return DistributedDataParallelConfig(
        grad_reduce_in_fp32=True,
        use_distributed_optimizer=layout.distributed_optimizer,
        overlap_grad_reduce=layout.overlap,
        overlap_param_gather=layout.overlap and layout.distributed_optimizer,
        bucket_size=layout.bucket_elements,
    )


def weight_decay_of(recipe: Recipe, phase: Phase) -> float:
    """The phase's own weight decay, or the recipe's."""
    return recipe.optimizer.weight_decay if phase.weight_decay is None else phase.weight_decay


def packed_params(batch: PackedBatch, dropout_key: int = 0) -> PackedSequences:
    """The layers' view of a pack."""
    return PackedSequences.of(batch.cu_seqlens, batch.max_seqlen, batch.position_T, dropout_key)


def training_step(
    training: Training,
    packs: Sequence[PackedBatch],
    lr: float,
    phase: Phase,
    weight_decay: float,
    seed: int,
    accept: Callable[[float], bool] = lambda loss: True,
) -> float:
    """Update the weights once from this rank's packs of the step; returns the mean loss per scored token, in nats.

    ``accept`` is asked with that loss when the gradients are there: if it says no, nothing is updated.

    The loss is one global sum over one global count of scored tokens, so it does not depend on how the packs of the
    step are spread over micro batches and ranks; nor does dropout, whose masks are a function of (seed, phase, pack).
    """
    progress_marker.at("the forward and backward pass")
    training.watch.start()
    for chunk in training.wrapped:
        chunk.train()
        chunk.zero_grad_buffer()
    training.optimizer.zero_grad()
    iterators = [iter(packs) for _ in training.wrapped]
    reports = get_forward_backward_func()(
        forward_step_func=partial(_forward, key64(seed, string_key(phase.name))),
        data_iterator=iterators if len(iterators) > 1 else iterators[0],
        model=training.wrapped,
        num_microbatches=len(packs),
        seq_length=len(packs[0].tokens_T),
        micro_batch_size=1,
    )
    loss = _mean_loss(reports)
    progress_marker.at("the update")
    if accept(loss):
        set_hyperparameters(training.optimizer, lr, phase.lr, weight_decay)
        training.optimizer.step()
    return loss


def _forward(key: int, packs: Iterator[PackedBatch], model: torch.nn.Module) -> tuple[Tensor, Any]:
    batch = next(packs).to(current().device)
    packed = packed_params(batch, key64(key, batch.pack_number))
    output = model(batch.tokens_T, packed, batch.masked_index_K, batch.label_K)
    return output, partial(_loss, scored=(batch.label_K != IGNORED_LABEL).sum())


def _loss(loss_sum: Tensor, scored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's triple: what is differentiated, what the gradient is divided by once summed, what is reported."""
    return loss_sum, scored.int(), torch.stack([loss_sum.detach(), scored.float()])


def _mean_loss(reports: Sequence[Tensor]) -> float:
    totals = torch.stack(list(reports)).sum(0) if reports else torch.zeros(2, device=current().device)
    loss_sum, scored = from_last_stage(sum_over_data_parallel(totals.double())).tolist()
    return loss_sum / scored
