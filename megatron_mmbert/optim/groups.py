"""Parameter groups, and the Megatron-Core optimizer around StableAdamW.

Megatron's ``get_megatron_optimizer`` knows Adam and SGD only, so its three wrappers are built here by their own
constructors: fp32 weights, bf16 weights with fp32 masters, and the optimizer sharded over data-parallel ranks. Megatron
is imported inside the functions, so that the rest of this room needs torch alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from megatron_mmbert.optim.stable_adamw import StableAdamW

# Megatron matches the groups of a checkpoint by wd_mult, lr_mult, is_expert_parallel and is_decoupled_lr.
GROUP_KEYS: dict[str, Any] = {"lr_mult": 1.0, "is_expert_parallel": False, "is_decoupled_lr": False}


@dataclass(frozen=True)
class OptimizerSettings:
    """What ``build_optimizer`` needs of the recipe.

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
    precision: Literal["fp32", "bf16"] = "fp32"
    distributed: bool = False


def is_decayed(name: str, param: Tensor) -> bool:
    """Weight decay spares norms (1-D) and biases, as ``filter_bias_norm_wd`` of the ModernBERT trainer does."""
    return param.ndim > 1 and not name.endswith("bias")


def split_parameters(named_parameters: Iterable[tuple[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """(decayed, spared) trainable parameters, each in the order given."""
    decayed: list[Tensor] = []
    spared: list[Tensor] = []
    for name, param in named_parameters:
        if param.requires_grad:
            (decayed if is_decayed(name, param) else spared).append(param)
    return decayed, spared


def parameter_groups(named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """Two groups, decayed then spared. Both exist on every pipeline stage, or checkpoints of other layouts differ."""
    decayed, spared = split_parameters(named_parameters)
    return [
        {"params": decayed, "weight_decay": weight_decay, "wd_mult": 1.0, **GROUP_KEYS},
        {"params": spared, "weight_decay": 0.0, "wd_mult": 0.0, **GROUP_KEYS},
    ]


def set_hyperparameters(
    optimizer: Any, lr: float, peak_lr: float | None = None, weight_decay: float | None = None
) -> None:
    """Set this step's learning rate, and after a phase change its peak and decay too.

    Args:
        optimizer: a StableAdamW or a Megatron optimizer around one. A restored checkpoint brings the values of the
            phase it was saved in, so call this before every step.
    """
    for name, value in (("lr", lr), ("peak_lr", peak_lr), ("weight_decay", weight_decay)):
        if value is not None and not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value}: give a finite number, 0 or more")
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get("lr_mult", 1.0)
        if peak_lr is not None:
            group["max_lr"] = peak_lr * group.get("lr_mult", 1.0)
        if weight_decay is not None:
            group["weight_decay"] = weight_decay * group.get("wd_mult", 1.0)


def initialize_states(optimizer: StableAdamW, config: object = None) -> None:
    """Make the moments of all parameters (Megatron's ``init_state_fn``, called before a checkpoint is read)."""
    for group in optimizer.param_groups:
        for param in group["params"]:
            optimizer.initialize_state(param)


def build_optimizer(
    model_chunks: Sequence[nn.Module],
    settings: OptimizerSettings,
    named_parameters: Iterable[tuple[str, Tensor]] | None = None,
) -> Any:
    """The Megatron-Core optimizer of this rank: StableAdamW, no gradient clipping, no loss scaling.

    A collective: every rank of the model calls it.

    Args:
        model_chunks: the model of this pipeline stage (several under interleaving), wrapped in Megatron's DDP; the
            gradients are read from ``param.main_grad`` where DDP put them, else from ``param.grad``.
        named_parameters: (logical name, parameter) of all chunks; by default the names in the one chunk there is.

    Returns:
        A ``megatron.core.optimizer.MegatronOptimizer``, with the StableAdamW in its ``.optimizer`` and the
        :class:`~megatron_mmbert.parallel.optimizer_shards.OptimizerShard` list in its ``.shards``.
    """
    from megatron.core import parallel_state
    from megatron.core.optimizer.optimizer import Float16OptimizerWithFloat16Params, FP32Optimizer

    from megatron_mmbert.optim.logical_rms import LogicalRms
    from megatron_mmbert.parallel.optimizer_shards import names_of_all_stages, optimizer_shards

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
    config = _megatron_config(settings)
    if settings.distributed:
        outer = _distributed(inner, config, model_chunks)
    elif settings.precision == "bf16":
        outer = Float16OptimizerWithFloat16Params(inner, config, cast(Any, None), initialize_states)
        outer.grad_stats_parallel_group = parallel_state.get_model_parallel_group()
    else:
        outer = FP32Optimizer(inner, config, initialize_states)
        outer.grad_stats_parallel_group = parallel_state.get_model_parallel_group()
    outer.tp_group = parallel_state.get_tensor_model_parallel_group()
    outer.shards = optimizer_shards(outer, named)
    inner.rms_reducer = LogicalRms(outer.shards, names_of_all_stages(name for name, _ in named))
    return outer


def _megatron_config(settings: OptimizerSettings) -> Any:
    """Megatron's settings; ``optimizer="adam"`` names the kind of state, not the arithmetic."""
    from megatron.core.optimizer import OptimizerConfig

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


def _distributed(inner: StableAdamW, config: Any, model_chunks: Sequence[nn.Module]) -> Any:
    """Megatron's DistributedOptimizer over the gradient buffers that DDP made (one instance of it per run)."""
    from megatron.core import parallel_state
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    outer = DistributedOptimizer(
        inner,
        config,
        cast(Any, None),
        initialize_states,
        model_chunks=list(model_chunks),
        per_model_buffers={index: cast(Any, chunk).buffers for index, chunk in enumerate(model_chunks)},
        data_parallel_group=parallel_state.get_data_parallel_group(with_context_parallel=True),
        data_parallel_group_gloo=cast(Any, None),  # only for Megatron's own checkpoints of this optimizer
        data_parallel_group_idx=parallel_state.get_model_parallel_group().rank(),
        distributed_optimizer_instance_id=0,
    )
    outer.grad_stats_parallel_group = parallel_state.get_intra_distributed_optimizer_instance_group()
    return outer
