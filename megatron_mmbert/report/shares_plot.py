"""Plot of the languages each phase reads: a bar per phase, the largest languages named, the others pooled."""

from __future__ import annotations

from typing import Any

from matplotlib.patches import Patch

from megatron_mmbert.report.run_reader import PhaseRun, Run
from megatron_mmbert.report.style import FAINT, MANY, REST, dark, short_names

_CHARACTER_PIXELS, _LINE_PIXELS = 6.6, 12.0  # at 8 points


def plot_shares(axes: Any, run: Run) -> None:
    """Fill ``axes`` with a stacked bar per phase that has a mixture, top to bottom."""
    phases = [phase for phase in run.phases if phase.shares]
    named = largest_languages(phases, len(MANY))
    colours = dict(zip(named, MANY, strict=False))
    short = short_names(sorted({language for phase in phases for language in phase.shares}))
    axes.set(xlim=(0, 1), ylim=(len(phases) - 0.5, -0.5), title="share of tokens by language")
    for row, phase in enumerate(phases):
        left = 0.0
        for language in named:
            share = phase.shares.get(language, 0.0)
            _segment(axes, row, left, share, colours[language], short[language])
            left += share
        others = len([language for language in phase.shares if language not in colours])
        if others:
            _segment(axes, row, left, 1.0 - left, REST, f"{others} others {max(0.0, 1.0 - left):.0%}")
    axes.set_yticks(range(len(phases)), [f"{phase.name}\n{_languages(phase)}" for phase in phases], fontsize=9)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"], fontsize=9)
    axes.tick_params(length=0)
    for side in ("left", "bottom"):
        axes.spines[side].set_visible(False)
    patches = [Patch(color=colours[language], label=short[language]) for language in named]
    if any(len(phase.shares) > len(named) for phase in phases):
        patches.append(Patch(color=REST, label="others"))
    axes.legend(
        handles=patches,
        ncols=len(patches),
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderaxespad=0.2,
        fontsize=9,
        handlelength=0.9,
        handletextpad=0.4,
        columnspacing=1.0,
    )


def largest_languages(phases: list[PhaseRun], limit: int) -> list[str]:
    """Return the languages with most tokens over all phases, largest first: named and coloured alike in every bar."""
    tokens: dict[str, float] = {}
    for phase in phases:
        for language, share in phase.shares.items():
            tokens[language] = tokens.get(language, 0.0) + share * max(phase.goal_tokens, 1.0)
    return sorted(tokens, key=lambda language: (-tokens[language], language))[:limit]


def _segment(axes: Any, row: int, left: float, share: float, colour: str, text: str) -> None:
    """Draw one part of a bar, with its text lying, standing or left out, as there is space."""
    if share <= 0:
        return
    height = 0.72
    axes.barh(row, share, left=left, height=height, color=colour, edgecolor="white", linewidth=0.6)
    box = axes.get_window_extent()
    wide = share * box.width
    high = height * box.height / abs(axes.get_ylim()[1] - axes.get_ylim()[0])
    long = len(text) * _CHARACTER_PIXELS + 4
    if wide >= long and high >= _LINE_PIXELS:
        rotation = 0
    elif high >= long and wide >= _LINE_PIXELS:
        rotation = 90
    else:
        return
    ink = "white" if dark(colour) else "black"
    axes.text(left + share / 2, row, text, ha="center", va="center_baseline", fontsize=8, color=ink, rotation=rotation)


def _languages(phase: PhaseRun) -> str:
    return f"{len(phase.shares)} language{'s' if len(phase.shares) != 1 else ''}"


def empty_note(axes: Any, text: str) -> None:
    """Write ``text`` into a panel without data."""
    axes.set_axis_off()
    axes.text(0.5, 0.5, text, ha="center", va="center", color=FAINT, transform=axes.transAxes)
