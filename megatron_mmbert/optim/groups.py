"""Parameter groups of the optimizer, and the hyperparameters that change from step to step."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Protocol

from torch import Tensor

# Megatron matches the groups of a checkpoint by wd_mult, lr_mult, is_expert_parallel and is_decoupled_lr.
GROUP_KEYS: dict[str, Any] = {"lr_mult": 1.0, "is_expert_parallel": False, "is_decoupled_lr": False}


def is_decayed(name: str, param: Tensor) -> bool:
    """Return whether weight decay applies: not to norms (1-D) and biases, as in the ModernBERT trainer's
    ``filter_bias_norm_wd``."""
    return param.ndim > 1 and not name.endswith("bias")


def split_parameters(named_parameters: Iterable[tuple[str, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    """Split the trainable parameters into (decayed, spared by weight decay), each in the order given."""
    decayed: list[Tensor] = []
    spared: list[Tensor] = []
    for name, param in named_parameters:
        if param.requires_grad:
            (decayed if is_decayed(name, param) else spared).append(param)
    return decayed, spared


def parameter_groups(named_parameters: Iterable[tuple[str, Tensor]], weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups, decayed then spared. Both exist on every pipeline stage, or checkpoints of other layouts
    differ."""
    decayed, spared = split_parameters(named_parameters)
    return [
        {"params": decayed, "weight_decay": weight_decay, "wd_mult": 1.0, **GROUP_KEYS},
        {"params": spared, "weight_decay": 0.0, "wd_mult": 0.0, **GROUP_KEYS},
    ]


class HasGroups(Protocol):
    """A StableAdamW, or an :class:`~megatron_mmbert.optim.optimizer.Optimizer` around one."""

    @property
    def param_groups(self) -> list[dict[str, Any]]: ...


def set_hyperparameters(
    optimizer: HasGroups, lr: float, peak_lr: float | None = None, weight_decay: float | None = None
) -> None:
    """Set this step's learning rate, and after a phase change its peak and decay too.

    Args:
        optimizer: a restored checkpoint brings the values of the phase it was saved in, so call this before every
            step.
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
