"""The run on one page: loss, learning rate, mask ratio and temperature over its tokens, and each phase's languages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from megatron_mmbert.report.run_reader import PhaseRun, Run
from megatron_mmbert.report.shares_plot import empty_note, plot_shares
from megatron_mmbert.report.style import BANDS, FAINT, figure_file, line_style, short_count
from megatron_mmbert.report.token_axis import StageSpan, last_mean, smooth, thin, ticks, token_axis

WIDTH, HEIGHT = 1400, 1000
_SMALL = {"lr": "learning rate", "mask_ratio": "mask ratio", "temperature": "sampling temperature τ"}
_LONGEST_TITLE = 26


def plot_run(run: Run, path: Path) -> None:
    """Write the plot of ``run`` to ``path``, a PNG of 1400 x 1000 pixels (higher for more than eight phases)."""
    bars = len([phase for phase in run.phases if phase.shares])
    with figure_file(path, WIDTH, HEIGHT + 45 * max(0, bars - 8)) as figure:
        shares_top = 0.045 + 0.07 * min(max(bars, 1), 6)
        top = dict(left=0.07, right=0.975, top=0.905, bottom=shares_top + 0.115)
        curves = figure.add_gridspec(3, 2, width_ratios=[1.75, 1], hspace=0.42, wspace=0.14, **top)
        stages = token_axis(run)
        loss = figure.add_subplot(curves[:, 0])
        small = {name: figure.add_subplot(curves[row, 1]) for row, name in enumerate(_SMALL)}
        for axes in (loss, *small.values()):
            _bands(axes, stages)
        if stages:
            _loss(loss, stages)
            for name, axes in small.items():
                _metric(axes, stages, name, labelled=name == "temperature")
        else:
            empty_note(loss, "no steps yet")
        shares = figure.add_axes((0.115, 0.04, 0.86, shares_top - 0.04))
        if bars:
            plot_shares(shares, run)
        else:
            empty_note(shares, "no mixture yet")
        figure.text(0.02, 0.972, run.name, fontsize=17, fontweight="bold", va="center")
        figure.text(0.975, 0.972, _headline(run, stages), fontsize=11, va="center", ha="right", color=FAINT)


def _headline(run: Run, stages: list[StageSpan]) -> str:
    steps = sum(phase.steps for phase in run.phases)
    languages = len({language for phase in run.phases for language in phase.shares})
    trained = sum(float(phase.curves["phase_tokens"][-1]) for stage in stages for phase in stage.phases)
    phases = f"{len(run.phases)} phase{'s' if len(run.phases) != 1 else ''}"
    return f"{short_count(trained)} tokens in {steps:,} steps of {phases}, {languages} languages"


def _bands(axes: Any, stages: list[StageSpan]) -> None:
    """Draw the stages' spans, and true counts of tokens on the axis that does not stretch evenly."""
    axes.set_xlim(0, 1)
    for number, stage in enumerate(stages):
        axes.axvspan(stage.left, stage.right, color=BANDS[number % 2], zorder=0, linewidth=0)
        if number:
            axes.axvline(stage.left, color=FAINT, linewidth=0.9, zorder=1)
    axes.set_xticks(*ticks(stages))
    axes.tick_params(labelsize=9)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6, zorder=1)
    axes.set_axisbelow(True)


def _loss(axes: Any, stages: list[StageSpan]) -> None:
    raw_values = []
    for stage in stages:
        for number, phase in enumerate(stage.phases):
            style = line_style(number, len(stage.phases))
            x, raw = stage.place(phase.curves["phase_tokens"]), phase.curves["loss"]
            axes.plot(*thin(x, raw), color=style["color"], alpha=0.22, linewidth=0.8, zorder=2)
            line = {**style, "linewidth": 1.9, "linestyle": "-", "label": f"{phase.name}  {last_mean(raw):.3f}"}
            axes.plot(*thin(x, smooth(raw, max(7, phase.steps // 20))), **line)
            raw_values.append(raw)
        title = stage.title if len(stage.title) <= _LONGEST_TITLE else f"{len(stage.phases)} variants"
        middle = (stage.left + stage.right) / 2
        axes.text(middle, 1.012, title, transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=10.5)
    every = np.concatenate(raw_values)
    every = every[np.isfinite(every)]
    if len(every):
        low, high = float(every.min()), float(every.max())
        axes.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
    axes.set_ylabel("loss, nats per scored token (bold: smoothed)")
    axes.set_xlabel("tokens of the run (each stage on its own scale)", fontsize=9)
    box = {"frameon": True, "facecolor": "white", "edgecolor": "none", "framealpha": 0.85}
    axes.legend(loc="upper right", fontsize=9.5, title="mean of the last 5 % of steps", title_fontsize=9, **box)


def _metric(axes: Any, stages: list[StageSpan], name: str, labelled: bool) -> None:
    highest = 0.0
    for stage in stages:
        for number, phase in enumerate(stage.phases):
            style = line_style(number, len(stage.phases))
            x, y = _with_ends(stage, phase, name)
            axes.plot(*thin(x, y), **style)
            highest = max(highest, float(np.nanmax(y)))
    axes.set_ylim(0, 1.12 * highest if highest else 1)
    axes.set_title(_SMALL[name], fontsize=10, pad=4)
    if name == "lr":
        axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
        axes.yaxis.get_offset_text().set(size=8, ha="right")
        axes.yaxis.set_offset_position("left")
    if name == "mask_ratio":
        axes.yaxis.set_major_formatter(lambda value, _: f"{100 * value:.3g} %")
    if labelled:
        axes.set_xlabel("tokens of the run", fontsize=9)


def _with_ends(stage: StageSpan, phase: PhaseRun, name: str) -> tuple[Any, Any]:
    """Return the curve led back to the phase's start: its first value is that of the first step, which begins there."""
    x, y = stage.place(phase.curves["phase_tokens"]), phase.curves[name]
    return np.concatenate([[stage.left], x]), np.concatenate([y[:1], y])
