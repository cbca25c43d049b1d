"""From the recipe to the optimizer of a phase."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from megatron_mmbert.builders.schedules import weight_decay_of
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import logical_parameters
from megatron_mmbert.optim.optimizer import Optimizer, OptimizerSettings, build_optimizer


def build_phase_optimizer(
    recipe: Recipe, phase: Phase, encoders: Sequence[Encoder], wrapped: Sequence[nn.Module]
) -> Optimizer:
    """Return the optimizer of this rank's chunks, laid over ranks as the recipe says; a collective.

    Args:
        wrapped: the data-parallel wrappers of ``encoders``.
    """
    settings = OptimizerSettings(
        peak_lr=phase.lr,
        weight_decay=weight_decay_of(recipe, phase),
        betas=recipe.optimizer.betas,
        eps=recipe.optimizer.eps,
        precision=recipe.precision.dtype,
        distributed=recipe.parallel.distributed_optimizer,
    )
    return build_optimizer(wrapped, settings, [pair for encoder in encoders for pair in logical_parameters(encoder)])
