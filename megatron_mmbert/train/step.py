"""One optimizer step: several packs forward and backward, gradients summed over ranks, one update."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from megatron_mmbert.config.recipe import Phase, Recipe
from megatron_mmbert.data.batch import PackedBatch
from megatron_mmbert.model.config import EncoderConfig, encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize, logical_parameters
from megatron_mmbert.model.loss import IGNORED
from megatron_mmbert.model.packed import PackedParams
from megatron_mmbert.optim.groups import OptimizerSettings, build_optimizer, set_hyperparameters
from megatron_mmbert.parallel.runtime import current, from_last_stage, seed_dropout, sum_over_data_parallel


@dataclass
class Training:
    """What is trained: the bare encoder, its data-parallel wrapper, and the optimizer."""

    config: EncoderConfig
    encoder: Encoder
    wrapped: DistributedDataParallel
    optimizer: Any


def build(recipe: Recipe, phase: Phase) -> Training:
    """The encoder with fresh weights and the optimizer, laid out as the recipe says."""
    runtime = current()
    config = encoder_config(recipe.model, phase.rope_theta, phase.theta_local, recipe.parallel, recipe.precision)
    config.finalize_model_grads_func = finalize_model_grads
    encoder = Encoder(config, recipe.model.vocab_size, runtime.is_first_stage, runtime.is_last_stage)
    encoder.to(runtime.device)
    initialize(encoder, recipe.seed)
    sharded = recipe.parallel.distributed_optimizer
    options = DistributedDataParallelConfig(grad_reduce_in_fp32=True, use_distributed_optimizer=sharded)
    wrapped = DistributedDataParallel(config, options, encoder)
    settings = OptimizerSettings(
        peak_lr=phase.lr,
        weight_decay=weight_decay_of(recipe, phase),
        betas=recipe.optimizer.betas,
        eps=recipe.optimizer.eps,
        precision=recipe.precision.dtype,
        distributed=sharded,
    )
    return Training(config, encoder, wrapped, build_optimizer([wrapped], settings, logical_parameters(encoder)))


def weight_decay_of(recipe: Recipe, phase: Phase) -> float:
    """The phase's own weight decay, or the recipe's."""
    return recipe.optimizer.weight_decay if phase.weight_decay is None else phase.weight_decay


def packed_params(batch: PackedBatch) -> PackedParams:
    """The layers' view of a pack."""
    return PackedParams.of(batch.cu_seqlens, batch.max_seqlen, batch.position_T)


def training_step(
    training: Training, packs: Sequence[PackedBatch], lr: float, phase: Phase, weight_decay: float, seed: int, step: int
) -> float:
    """Update the weights once from this rank's packs of the step; returns the mean loss per scored token, in nats.

    The loss is one global sum over one global count of scored tokens, so it does not depend on how the packs of the
    step are spread over micro batches and ranks.
    """
    seed_dropout(seed, step)
    training.wrapped.train()
    training.wrapped.zero_grad_buffer()
    training.optimizer.zero_grad()
    reports = get_forward_backward_func()(
        forward_step_func=_forward,
        data_iterator=iter(packs),
        model=[training.wrapped],
        num_microbatches=len(packs),
        seq_length=len(packs[0].tokens_T),
        micro_batch_size=1,
    )
    set_hyperparameters(training.optimizer, lr, phase.lr, weight_decay)
    training.optimizer.step()
    return _mean_loss(reports)


def _forward(packs: Iterator[PackedBatch], model: torch.nn.Module) -> tuple[Tensor, Any]:
    batch = next(packs).to(current().device)
    output = model(batch.tokens_T, packed_params(batch), batch.masked_index_K, batch.label_K)
    return output, partial(_loss, scored=(batch.label_K != IGNORED).sum())


def _loss(loss_sum: Tensor, scored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Megatron's triple: what is differentiated, what the gradient is divided by once summed, what is reported."""
    return loss_sum, scored.int(), torch.stack([loss_sum.detach(), scored.float()])


def _mean_loss(reports: Sequence[Tensor]) -> float:
    totals = torch.stack(list(reports)).sum(0) if reports else torch.zeros(2, device=current().device)
    loss_sum, scored = from_last_stage(sum_over_data_parallel(totals.double())).tolist()
    return loss_sum / scored
