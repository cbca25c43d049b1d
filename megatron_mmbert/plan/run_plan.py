"""The plan of a whole run: its phases, the machine, and what there is to warn of."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.plan.cost import Forecast, Machine, forecast, total
from megatron_mmbert.plan.phases import PhasePlan, plan_phases, some
from megatron_mmbert.plan.token_counts import TokenCounts, available_token_counts


@dataclass(frozen=True)
class Plan:
    name: str
    phases: tuple[PhasePlan, ...]
    machine: Machine
    max_epochs: float
    warnings: tuple[str, ...]

    @property
    def tokens(self) -> int:
        return sum(plan.phase.tokens for plan in self.phases)

    @property
    def flops(self) -> float:
        return sum(plan.flops for plan in self.phases)


def make_plan(
    recipe: Recipe, machine: Machine, max_epochs: float, table: Path | None = None, column: str = "tokens"
) -> Plan:
    """Return the plan of ``recipe`` with its stores, or with a table of token counts.

    Raises:
        UserError: a damaged store or table, or a layout that training would refuse.
    """
    warnings: list[str] = []
    text = available_token_counts(recipe, table, column, warnings.append)
    if isinstance(text, TokenCounts) and not text.names_sources and any(phase.sources for phase in recipe.phases):
        warnings.append(
            f"{table}: has no column 'source', so the phases' shares of sources are left aside and all text is "
            "sampled by temperature"
        )
    phases = plan_phases(recipe, text, machine.gpus, warnings.append)
    warnings += [plan.idle for plan in phases if plan.idle]
    warnings += [sentence for plan in phases if (sentence := _repeats(plan, max_epochs))]
    return Plan(recipe.name, tuple(phases), machine, max_epochs, tuple(warnings))


def _repeats(plan: PhasePlan, max_epochs: float) -> str:
    repeated = plan.repeated(max_epochs)
    if not repeated:
        return ""
    sources = len({group.source for group in plan.groups}) > 1
    listed = some(
        f"{group.language}{f' of {group.source}' if sources else ''} {group.run_epochs:.3g} times" for group in repeated
    )
    what = "texts of a language" if sources else "languages"
    return (
        f"phase {plan.phase.name!r}: by its end, {len(repeated)} {what} are read more than {max_epochs:g} times: "
        f"{listed}; lower tokens or boost, raise the temperature, or set max_epochs"
    )


def as_json(plan: Plan) -> dict[str, Any]:
    """Return the plan for programs; the keys are those of the file."""
    return {
        "name": plan.name,
        "machine": asdict(plan.machine),
        "phases": [_phase_json(phase, forecast(phase, plan.machine)) for phase in plan.phases],
        "total": {
            "tokens": plan.tokens,
            "flops": plan.flops,
            "forecast": _forecast_json(total(plan.phases, plan.machine)),
        },
        "most_epochs": plan.max_epochs,
        "warnings": list(plan.warnings),
    }


def _phase_json(plan: PhasePlan, expected: Forecast | None) -> dict[str, Any]:
    phase, pack = plan.phase, plan.ramp.tokens_per_pack
    return {
        "name": phase.name,
        "from": plan.origin,
        "tokens": phase.tokens,
        "steps": plan.steps,
        "pack_fill": plan.fill,
        "tokens_per_step": {"start": plan.ramp.start_packs * pack, "full": phase.batch.tokens_per_step},
        "ramp_tokens": plan.ramp.ramp_tokens,
        "tokens_per_pack": pack,
        "tokens_per_micro_batch": phase.batch.tokens_per_micro_batch,
        "warmup_tokens": phase.schedule.warmup_tokens,
        "decay_tokens": phase.schedule.decay_tokens,
        "max_length": phase.max_length,
        "rope_theta": phase.rope_theta,
        "rope_theta_local": phase.theta_local,
        "lr": phase.lr,
        "mask_ratio": _schedule_json(phase.mask_ratio),
        "temperature": _schedule_json(phase.temperature),
        "flops_per_token": plan.flops_per_token,
        "flops": plan.flops,
        "forecast": _forecast_json(expected),
        "missing_languages": list(plan.missing),
        "languages": [asdict(use) for use in plan.languages()],
        "groups": [asdict(use) for use in plan.groups],
    }


def _schedule_json(schedule: LinearRamp) -> dict[str, float]:
    return {"from": schedule.start, "to": schedule.end}


def _forecast_json(expected: Forecast | None) -> dict[str, float | None] | None:
    return None if expected is None else asdict(expected)
