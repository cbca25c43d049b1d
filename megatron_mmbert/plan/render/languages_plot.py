"""The languages of a plan, phase by phase, drawn as a report draws those of a run."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megatron_mmbert.plan.run_plan import Plan
from megatron_mmbert.report.run_reader import PhaseRun, Run
from megatron_mmbert.report.shares_plot import empty_note, plot_shares
from megatron_mmbert.report.style import FAINT, figure_file, short_count

WIDTH = 1400
_AROUND, _BAR = 130, 62  # pixels


def plot_plan(plan: Plan, path: Path) -> None:
    """Write a bar of language shares for each phase to ``path``, a PNG."""
    run = _as_run(plan)
    bars = max(1, len([phase for phase in run.phases if phase.shares]))
    height = _AROUND + _BAR * bars
    with figure_file(path, WIDTH, height) as figure:
        axes = figure.add_axes((0.115, 40 / height, 0.86, _BAR * bars / height))
        if any(phase.shares for phase in run.phases):
            plot_shares(axes, run)
        else:
            empty_note(axes, "no text to plan with")
        top = 1 - 26 / height
        languages = len({language for phase in run.phases for language in phase.shares})
        steps = sum(phase.steps for phase in plan.phases)
        about = f"plan: {short_count(plan.tokens)} tokens in {steps:,} steps of {len(plan.phases)} phases"
        figure.text(0.02, top, plan.name, fontsize=17, fontweight="bold", va="center")
        figure.text(0.975, top, f"{about}, {languages} languages", fontsize=11, va="center", ha="right", color=FAINT)


def _as_run(plan: Plan) -> Run:
    """The plan as a run that has shares and no steps yet."""
    none = np.array([], dtype=np.float64)
    curves = {name: none for name in ("phase_tokens", "goal_tokens", "total_tokens", "loss")}
    phases = []
    for number, each in enumerate(plan.phases):
        uses = each.languages()
        shares, sizes = (
            {use.language: use.share for use in uses},
            {use.language: float(use.text_tokens) for use in uses},
        )
        phases.append(PhaseRun(each.phase.name, each.origin, number, curves, shares, sizes, {}, {}))
    return Run(plan.name, tuple(phases))
