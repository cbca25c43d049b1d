"""Time, energy and cost of a plan, from a speed that was measured or is hoped for.

GPUs are taken to share the work without loss: what communication and waiting cost has to be in the speed given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from megatron_mmbert.plan.phases import PhasePlan
from megatron_mmbert.utils.errors import UserError

_SECONDS = 3600.0


@dataclass(frozen=True)
class Machine:
    """The GPUs that train; raises UserError for a value out of its range.

    Attributes:
        gpus: their number.
        tokens_per_second: real tokens of one GPU, the same in every phase; or
        flops_per_second: what one GPU sustains on the model's arithmetic, so that phases differ in speed.
        watts: of one GPU with its part of the host.
        price_per_hour: of one GPU.
    """

    gpus: int
    tokens_per_second: float | None = None
    flops_per_second: float | None = None
    watts: float | None = None
    price_per_hour: float | None = None

    def __post_init__(self) -> None:
        if self.gpus < 1:
            raise UserError(f"--gpus {self.gpus}: must be at least 1")
        has_speed = self.tokens_per_second is not None or self.flops_per_second is not None
        for name in ("tokens_per_second", "flops_per_second", "watts", "price_per_hour"):
            value, flag = getattr(self, name), f"--{name.replace('_', '-')}"
            if value is not None and not (0 < value < math.inf):
                raise UserError(f"{flag} {value:g}: must be above 0")
            if value is not None and not has_speed:
                raise UserError(f"{flag}: needs a speed; give --tokens-per-second, or --flops-per-second and --mfu")


@dataclass(frozen=True)
class Forecast:
    """The forecast of a phase or a run. ``tokens_per_second`` is that of one GPU; ``hours`` are those of the clock."""

    tokens_per_second: float
    gpu_hours: float
    hours: float
    kilowatt_hours: float | None
    cost: float | None


def forecast(plan: PhasePlan, machine: Machine) -> Forecast | None:
    """Return the forecast of a phase; None where no speed is known."""
    if machine.tokens_per_second is not None:
        speed = machine.tokens_per_second
    elif machine.flops_per_second is not None:
        speed = machine.flops_per_second / plan.flops_per_token
    else:
        return None
    return _of_gpu_hours(speed, plan.phase.tokens / speed / _SECONDS, machine)


def total(plans: Iterable[PhasePlan], machine: Machine) -> Forecast | None:
    """Return the forecast of all phases one after the other; ``tokens_per_second`` is the mean over time."""
    listed = list(plans)
    parts = [part for plan in listed if (part := forecast(plan, machine))]
    if not parts:
        return None
    gpu_hours = sum(part.gpu_hours for part in parts)
    tokens = sum(plan.phase.tokens for plan in listed)
    return _of_gpu_hours(tokens / gpu_hours / _SECONDS, gpu_hours, machine)


def _of_gpu_hours(speed: float, gpu_hours: float, machine: Machine) -> Forecast:
    return Forecast(
        tokens_per_second=speed,
        gpu_hours=gpu_hours,
        hours=gpu_hours / machine.gpus,
        kilowatt_hours=None if machine.watts is None else gpu_hours * machine.watts / 1000,
        cost=None if machine.price_per_hour is None else gpu_hours * machine.price_per_hour,
    )
