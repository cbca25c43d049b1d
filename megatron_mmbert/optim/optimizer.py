"""The optimizer of one rank: StableAdamW inside a wrapper of Megatron-Core.

Megatron's ``get_megatron_optimizer`` knows Adam and SGD only, so its three wrappers are built here by their own
constructors: fp32 weights, bf16 weights with fp32 masters, and the optimizer sharded over data-parallel ranks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from megatron.core.optimizer import OptimizerConfig
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer, MegatronOptimizer
from torch import Tensor, nn

from megatron_mmbert.config.precision import Dtype
from megatron_mmbert.optim.groups import parameter_groups
from megatron_mmbert.optim.logical_rms import LogicalRms
from megatron_mmbert.optim.stable_adamw import StableAdamW
from megatron_mmbert.parallel import process_groups
from megatron_mmbert.parallel.optimizer_shards import OptimizerShard, names_of_all_stages, optimizer_shards


@dataclass(frozen=True)
class OptimizerSettings:
    """The settings of :func:`build_optimizer`.

    Attributes:
        peak_lr: plateau of the schedule; ``set_hyperparameters`` sets the rate of each step.
        weight_decay: fully decoupled, per step at the peak rate (mmBERT base: 8e-5).
        precision: ``fp32``, or ``bf16`` weights with fp32 masters.
        distributed: shard masters and moments over the data-parallel ranks (the model must be wrapped in Megatron's
            DDP with ``use_distributed_optimizer``).
    """

    peak_lr: float
    weight_decay: float = 8e-5
    betas: tuple[float, float] = (0.9, 0.95)
    eps: float = 1e-8
    precision: Dtype = "fp32"
    distributed: bool = False


class Optimizer:
    """StableAdamW for this rank's part of the model, inside a wrapper of Megatron-Core.

    Attributes:
        stable_adamw: holds the moments and does the arithmetic.
        shards: the part of each logical tensor that this rank updates.
        megatron: the wrapper; it moves gradients in and weights out.
    """

    def __init__(
        self, megatron: MegatronOptimizer, stable_adamw: StableAdamW, shards: Sequence[OptimizerShard]
    ) -> None:
        self.megatron, self.stable_adamw, self.shards = megatron, stable_adamw, shards

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The two groups of :func:`~megatron_mmbert.optim.groups.parameter_groups`; their values may be changed."""
        return self.stable_adamw.param_groups

    def zero_grad(self) -> None:
        """Clear the gradients."""
        self.megatron.zero_grad()

    def step(self) -> bool:
        """Update the weights from the gradients, which are summed over ranks; returns whether it was done."""
        return bool(self.megatron.step()[0])

    def reload_model_params(self) -> None:
        """Take the fp32 masters from the weights, after those were loaded without an optimizer state."""
        self.megatron.reload_model_params()


def initialize_states(optimizer: StableAdamW, config: object = None) -> None:
    """Make the moments of all parameters (Megatron's ``init_state_fn``, called before a checkpoint is read)."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            optimizer.initialize_state(param)


def build_optimizer(
    model_chunks: Sequence[nn.Module],
    settings: OptimizerSettings,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
) -> Optimizer:
    """Return the optimizer of this rank: no gradient clipping, no loss scaling. All ranks of the model call it.

    Args:
        model_chunks: the model of this pipeline stage (several under interleaving), wrapped in Megatron's DDP; the
            gradients are read from ``param.main_grad`` where DDP put them, else from ``param.grad``.
        named_parameters: (logical name, parameter) of all chunks; by default the names in the one chunk there is.
    """
    if named_parameters is None:
        (chunk,) = model_chunks
        named_parameters = ((name.removeprefix("module."), param) for name, param in chunk.named_parameters())
    named = list(named_parameters)
    inner = StableAdamW(
        parameter_groups(named, settings.weight_decay),
        lr=settings.peak_lr,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
    )
    megatron = _wrapped(inner, settings, model_chunks)
    shards = optimizer_shards(megatron, named)
    inner.rms_reducer = LogicalRms(shards, names_of_all_stages(name for name, _ in named))
    return Optimizer(megatron, inner, shards)


def _wrapped(inner: StableAdamW, settings: OptimizerSettings, model_chunks: Sequence[nn.Module]) -> MegatronOptimizer:
    """Return the wrapper that the settings ask for, with the process groups that Megatron's own factory gives it."""
    config = _megatron_config(settings)
    if settings.distributed:
        outer = _distributed(inner, config, model_chunks)
        outer.grad_stats_parallel_group = process_groups.optimizer_instance()
    elif settings.precision == "bf16":
        outer = Float16OptimizerWithFloat16Params(inner, config, cast(Any, None), initialize_states)
        outer.grad_stats_parallel_group = process_groups.model_parallel()
    else:
        outer = FP32Optimizer(inner, config, initialize_states)
        outer.grad_stats_parallel_group = process_groups.model_parallel()
    outer.tp_group = process_groups.tensor_parallel()
    return outer


def _megatron_config(settings: OptimizerSettings) -> OptimizerConfig:
    """Return Megatron's settings; ``optimizer="adam"`` names the kind of state, not the arithmetic."""
    bf16 = settings.precision == "bf16"
    return OptimizerConfig(
        optimizer="adam",
        lr=settings.peak_lr,
        min_lr=0.0,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.betas[0],
        adam_beta2=settings.betas[1],
        adam_eps=settings.eps,
        bf16=bf16,
        params_dtype=torch.bfloat16 if bf16 else torch.float32,
        clip_grad=0.0,
        use_distributed_optimizer=settings.distributed,
    )


def _distributed(inner: StableAdamW, config: OptimizerConfig, model_chunks: Sequence[nn.Module]) -> MegatronOptimizer:
    """Return Megatron's DistributedOptimizer over the gradient buffers that DDP made (one instance of it per run)."""
    return DistributedOptimizer(
        inner,
        config,
        cast(Any, None),
        initialize_states,
        model_chunks=list(model_chunks),
        per_model_buffers={index: cast(Any, chunk).buffers for index, chunk in enumerate(model_chunks)},
        data_parallel_group=process_groups.data_and_context_parallel(),
        data_parallel_group_gloo=cast(Any, None),  # only for Megatron's own checkpoints of this optimizer
        data_parallel_group_idx=process_groups.model_parallel().rank(),
        distributed_optimizer_instance_id=0,
    )
