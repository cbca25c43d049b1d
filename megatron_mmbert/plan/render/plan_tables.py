"""A plan as tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from megatron_mmbert.plan.cost import Forecast, forecast, total
from megatron_mmbert.plan.phases import LanguageUse, PhasePlan
from megatron_mmbert.plan.run_plan import Plan
from megatron_mmbert.report.style import short_count
from megatron_mmbert.utils.text_table import table

_ENDS = 8  # languages shown from the top and from the bottom of the list
_NONE = "–"


def plan_text(plan: Plan, all_languages: bool = False) -> str:
    """Return all tables of the plan, then its warnings."""
    gpus = plan.machine.gpus
    parts = [
        f"{plan.name}: {len(plan.phases)} phases, {short_count(plan.tokens)} tokens, {_power(plan.flops)} FLOPs, "
        f"{gpus} GPU{'s' if gpus != 1 else ''}",
        phase_table(plan.phases),
        work_table(plan),
    ]
    for phase in plan.phases:
        if phase.groups:
            parts.append(language_table(phase, None if all_languages else _ENDS))
    parts += ["\n".join(f"warning: {warning}" for warning in plan.warnings)] if plan.warnings else []
    return "\n\n".join(parts)


def phase_table(plans: Sequence[PhasePlan]) -> str:
    """Return a table of the phases as the recipe has them, and the steps that follow."""
    header = ["phase", "from", "tokens", "steps", "tokens\nper step", "pack", "warm-up", "decay", "length"]
    header += ["theta", "mask", "τ", "lr", "languages"]
    rows = [
        [
            plan.phase.name,
            plan.origin or "scratch",
            short_count(plan.phase.tokens),
            f"{plan.steps:,}",
            _step(plan),
            f"{plan.ramp.tokens_per_pack:,}",
            short_count(plan.phase.schedule.warmup_tokens),
            short_count(plan.phase.schedule.decay_tokens),
            str(plan.phase.max_length),
            _theta(plan),
            plan.phase.mask_ratio.describe(100, " %"),
            plan.phase.temperature.describe(),
            f"{plan.phase.lr:g}",
            str(len(plan.languages())) if plan.groups else _NONE,
        ]
        for plan in plans
    ]
    return table(header, rows, [False, False, *[True] * (len(header) - 2)])


def work_table(plan: Plan) -> str:
    """Arithmetic, and the time, energy and cost where a speed is given."""
    whole = total(plan.phases, plan.machine)
    header = ["phase", "FLOPs\nper token", "FLOPs"]
    header += ["tokens/s\nper GPU", "GPU-hours", "time"] if whole else []
    header += ["kWh"] if whole and whole.kilowatt_hours is not None else []
    header += ["cost"] if whole and whole.cost is not None else []
    rows = [
        [each.phase.name, _power(each.flops_per_token), _power(each.flops), *_cells(forecast(each, plan.machine))]
        for each in plan.phases
    ]
    rows.append(["all", _power(plan.flops / plan.tokens), _power(plan.flops), *_cells(whole)])
    return table(header, rows, [False, *[True] * (len(header) - 1)])


def language_table(plan: PhasePlan, ends: int | None) -> str:
    """Tokens and epochs by language; with ``ends`` only so many of the largest and of the smallest."""
    uses = plan.languages()
    cut = ends is not None and len(uses) > 2 * ends + 1
    shown = [*uses[:ends], *uses[-ends:]] if cut and ends else uses
    rows = [_language_row(use) for use in shown]
    if cut and ends:
        rows.insert(ends, [f"... {len(uses) - 2 * ends} more", *[""] * 5])
    header = ["language", "tokens of text", "share", "tokens read", "epochs", "epochs of the run"]
    title = f"phase {plan.phase.name}: {len(uses)} languages"
    return f"{title}\n{table(header, rows, [False, *[True] * 5])}"


def _language_row(use: LanguageUse) -> list[str]:
    counts = [short_count(use.text_tokens), f"{use.share:.3%}", short_count(use.tokens)]
    return [use.language, *counts, f"{use.epochs:.3g}", f"{use.run_epochs:.3g}"]


def _cells(expected: Forecast | None) -> list[str]:
    if expected is None:
        return []
    cells = [f"{expected.tokens_per_second:,.0f}", _hours(expected.gpu_hours), clock_time(expected.hours)]
    optional = (expected.kilowatt_hours, expected.cost)
    return cells + [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in optional if value is not None]


def clock_time(hours: float) -> str:
    """``38.2 days``, ``5.0 hours``, ``12 minutes``, ``3 seconds``: the largest unit of which there are two or more."""
    for unit, name in ((24.0, "days"), (1.0, "hours"), (1 / 60, "minutes")):
        if hours >= 2 * unit:
            return f"{hours / unit:.1f} {name}"
    return f"{hours * 3600:.1f} seconds"


def _hours(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 100 else f"{hours:.3g}"


def _step(plan: PhasePlan) -> str:
    full, start = plan.phase.batch.tokens_per_step, plan.ramp.start_packs * plan.ramp.tokens_per_pack
    if not plan.ramp.ramp_tokens:
        return short_count(full)
    return f"{short_count(start)} → {short_count(full)} over {short_count(plan.ramp.ramp_tokens)}"


def _theta(plan: PhasePlan) -> str:
    both = [short_count(plan.phase.rope_theta), short_count(plan.phase.theta_local)]
    return both[0] if both[0] == both[1] else " / ".join(both)


def _power(value: float) -> str:
    """``2.6e+21`` as 2.60e21: counts beyond the units that have names."""
    return short_count(value) if value < 1e15 else f"{value:.2e}".replace("e+", "e")
