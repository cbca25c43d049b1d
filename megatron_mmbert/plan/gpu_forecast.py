"""A layout chosen for a number of GPUs of one kind, and the forecast of scaling each phase with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from megatron_mmbert.config.parallel import ParallelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.plan.cost import Machine, forecast
from megatron_mmbert.plan.gpus import Gpu
from megatron_mmbert.plan.run_plan import make_plan
from megatron_mmbert.plan.scaling import Point, best, scaling
from megatron_mmbert.utils.errors import UserError


@dataclass(frozen=True)
class PhaseScaling:
    """The forecast of one phase.

    Attributes:
        speed: real tokens per second of one GPU alone.
        points: the fastest layout at each number of GPUs.
    """

    phase: Phase
    speed: float
    points: list[Point]


@dataclass(frozen=True)
class GpuForecast:
    """A forecast for a recipe on one kind of GPU.

    Attributes:
        given: the recipe, with its own layout.
        chosen: the fastest legal layout that fits, a point for each phase.
        phases: how each phase scales.
    """

    given: Recipe
    gpu: Gpu
    chosen: list[Point]
    phases: tuple[PhaseScaling, ...]

    @property
    def recipe(self) -> Recipe:
        """The recipe with the chosen layout."""
        return self.given.model_copy(update={"parallel": self.chosen[0].parallel})


def forecast_gpus(
    recipe: Recipe, machine: Machine, gpu: Gpu, max_epochs: float, table: Path | None = None, column: str = "tokens"
) -> GpuForecast:
    """Choose a layout for the ``machine``'s GPUs, and forecast how every phase scales.

    Args:
        machine: with a speed of one GPU.
        max_epochs, table, column: as of :func:`megatron_mmbert.plan.run_plan.make_plan`.

    Raises:
        UserError: no layout is legal and fits, or as :func:`make_plan`.
    """
    alone = recipe.model_copy(update={"parallel": ParallelConfig()})
    single = make_plan(alone, replace(machine, gpus=1), max_epochs, table, column)
    speeds = [found.tokens_per_second for each in single.phases if (found := forecast(each, single.machine))]
    chosen = choose_layout(recipe, speeds, machine.gpus, gpu)
    phases = tuple(
        PhaseScaling(phase, speed, scaling(recipe, phase, speed, gpu))
        for phase, speed in zip(recipe.phases, speeds, strict=True)
    )
    return GpuForecast(recipe, gpu, chosen, phases)


def choose_layout(recipe: Recipe, speeds: Sequence[float], gpus: int, gpu: Gpu) -> list[Point]:
    """Return the fastest legal layout that fits, a point for each phase.

    Raises:
        UserError: there is none.
    """
    points = best(recipe, recipe.phases, speeds, gpus, gpu)
    if not points:
        raise UserError(
            f"--gpus {gpus}: no layout of {gpu.name} is legal for every phase and fits {gpu.memory / 1e9:g} GB; change "
            "--gpus, or in the recipe batch (a step needs a pack for each data-parallel rank)"
        )
    return points
