"""Held-out bits per byte by language at every measurement of a run, as one plot.

Up to sixty languages: a heat map with the numbers in it. More: each group's distribution, as no page holds their rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import Normalize
from matplotlib.transforms import blended_transform_factory

from megatron_mmbert.report.language_groups import Column, Group, columns, language_groups
from megatron_mmbert.report.run_reader import Float64s, Run
from megatron_mmbert.report.shares_plot import empty_note
from megatron_mmbert.report.style import FAINT, INK, LINES, figure_file

MAX_ROWS = 60
WIDTH = 1400
_ROW_PIXELS = 17
_COLOURS = "YlGnBu"  # dark is worse; one direction of lightness, for all kinds of colour vision


def plot_scores(run: Run, path: Path) -> None:
    """Write the plot to ``path``, a PNG 1400 pixels wide."""
    shown = columns(run)
    groups = [(group, _table(group, shown)) for group in language_groups(run)]
    groups = [(group, values) for group, values in groups if len(values)]
    rows = sum(len(values) for _, values in groups)
    if not rows:
        with figure_file(path, WIDTH, 300) as figure:
            empty_note(figure.add_subplot(), "no held-out scores")
    elif rows <= MAX_ROWS:
        _heat_map(groups, shown, path, rows)
    else:
        _distributions(groups, shown, path)


def _table(group: Group, shown: list[Column]) -> Float64s:
    """Return float64 [languages, columns] of the group's languages that have any score; NaN where one is missing."""
    languages = _with_scores(group, shown)
    cells = [[column.scores.get(language, np.nan) for column in shown] for language in languages]
    return np.array(cells, dtype=np.float64).reshape(len(languages), len(shown))


def _with_scores(group: Group, shown: list[Column]) -> list[str]:
    return [name for name in group.languages if any(name in column.scores for column in shown)]


def _heat_map(groups: list[tuple[Group, Float64s]], shown: list[Column], path: Path, rows: int) -> None:
    height = 150 + _ROW_PIXELS * rows + 10 * len(groups)
    with figure_file(path, WIDTH, max(height, 400)) as figure:
        scale = height if height >= 400 else 400
        wide = min(0.78, 0.16 * len(shown))
        axes = figure.add_axes((0.2, 30 / scale, wide, 1 - 140 / scale))
        norm = _norm([values for _, values in groups], shown)
        gap = 10 / _ROW_PIXELS
        top, ticks, names = 0.0, [], []
        for group, values in groups:
            extent = (-0.5, len(shown) - 0.5, top + len(values), top)
            axes.imshow(values, cmap=_COLOURS, norm=norm, aspect="auto", extent=extent, interpolation="nearest")
            _numbers(axes, values, shown, top, norm)
            ticks += [top + row + 0.5 for row in range(len(values))]
            names += _with_scores(group, shown)
            _group_title(figure, axes, group.label, len(values), top)
            top += len(values) + gap
        axes.set(xlim=(-0.5, len(shown) - 0.5), ylim=(top - gap, 0))
        axes.set_yticks(ticks, names, fontsize=8.5)
        axes.set_xticks(range(len(shown)), [_title(column) for column in shown], fontsize=10)
        axes.tick_params(length=0, labeltop=True, labelbottom=False)
        axes.spines[:].set_visible(False)
        figure.text(0.02, 1 - 26 / scale, "held-out bits per byte by language", fontsize=15, fontweight="bold")
        figure.text(
            *(0.02, 1 - 50 / scale),
            "lower is better; bold: the language's best; languages with most training text first in each group",
            color=FAINT,
        )


def _norm(tables: list[Float64s], shown: list[Column]) -> Normalize:
    """Return colours for the trained states: untrained weights would take most of the scale and tell nothing."""
    trained = [number for number, column in enumerate(shown) if number or column.moment != "before"]
    values = np.concatenate([table[:, trained or [0]].ravel() for table in tables])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [1, 99]) if len(values) else (0.0, 1.0)
    return Normalize(low, max(high, low + 1e-6), clip=True)


def _numbers(axes: Any, values: Float64s, shown: list[Column], top: float, norm: Normalize) -> None:
    many = len(shown) > 1
    for row, line in enumerate(values):
        best = np.nanmin(line)
        for column, value in enumerate(line):
            if not np.isfinite(value):
                continue
            axes.text(
                *(column, top + row + 0.52, f"{value:.3f}"),
                ha="center",
                va="center",
                fontsize=8.5,
                fontweight="bold" if many and value == best else "normal",
                color="white" if norm(value) > 0.6 else "black",
            )


def _group_title(figure: Any, axes: Any, label: str, count: int, top: float) -> None:
    """Write the group's name at the very left, beside its first row; a line shows how far the group goes."""
    across = blended_transform_factory(figure.transFigure, axes.transData)
    axes.text(0.015, top + 0.5, label, transform=across, fontsize=9.5, fontweight="bold", va="center")
    if count > 1:
        axes.text(0.015, top + 1.5, f"{count} languages", transform=across, fontsize=9, color=FAINT, va="center")
    axes.plot([0.135, 0.135], [top, top + count], transform=across, color=FAINT, linewidth=1.2, clip_on=False)


def _distributions(groups: list[tuple[Group, Float64s]], shown: list[Column], path: Path) -> None:
    if len(groups) > 1 and len(groups) % 2:
        groups = [*groups, (Group("all", (), ()), np.concatenate([values for _, values in groups]))]
    wide = 2 if len(groups) > 1 else 1
    high = -(-len(groups) // wide)
    height = 140 + 400 * high
    with figure_file(path, WIDTH, height) as figure:
        grid = figure.add_gridspec(
            *(high, wide), left=0.06, right=0.985, top=1 - 110 / height, bottom=70 / height, hspace=0.36, wspace=0.1
        )
        for number, (group, values) in enumerate(groups):
            axes = figure.add_subplot(grid[number // wide, number % wide])
            _distribution(axes, values, shown)
            axes.set_title(f"{group.label}: {len(values)} languages", fontsize=11)
        figure.text(0.02, 1 - 30 / height, "held-out bits per byte", fontsize=15, fontweight="bold")
        note = (
            "each dot a language (lower is better); box: the middle half; line and number: the median; whiskers: 5–95 %"
        )
        figure.text(0.02, 1 - 58 / height, note, color=FAINT)


def _distribution(axes: Any, values: Float64s, shown: list[Column]) -> None:
    chance = np.random.default_rng(0)  # only spreads the dots sideways
    for place in range(len(shown)):
        found = values[np.isfinite(values[:, place]), place]
        if not len(found):
            continue
        colour = LINES[0]
        spread = chance.uniform(-0.3, 0.3, len(found))
        axes.scatter(place + spread, found, s=7, color=colour, alpha=0.3, linewidth=0, zorder=2)
        axes.boxplot(
            *([found],),
            positions=[place],
            widths=0.5,
            whis=(5, 95),
            showfliers=False,
            manage_ticks=False,
            zorder=3,
            medianprops={"color": LINES[1], "linewidth": 2.2},
            **{part: {"color": INK, "linewidth": 1.1} for part in ("boxprops", "whiskerprops", "capprops")},
        )
        median = float(np.median(found))
        axes.text(place, 1.0, f"{median:.2f}", transform=axes.get_xaxis_transform(), ha="center", va="top", fontsize=9)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    axes.set(xlim=(-0.6, len(shown) - 0.4), ylim=(low - 0.05 * (high - low), high + 0.14 * (high - low)))
    axes.set_xticks(range(len(shown)), [_title(column) for column in shown], fontsize=8.5)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _title(column: Column) -> str:
    return f"{column.moment}\n{column.subject}" if column.moment else column.subject
