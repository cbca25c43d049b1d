"""The forecast of scaling as a plot: efficiency of every phase, and where the longest one's steps go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.lines import Line2D

from megatron_mmbert.plan.gpus import Gpu
from megatron_mmbert.plan.parallel_layout import ParallelLayout
from megatron_mmbert.plan.render.plan_tables import clock_time
from megatron_mmbert.plan.scaling import MAX_GPUS, Point
from megatron_mmbert.report.style import FAINT, INK, LINES, REST, figure_file, short_count

WIDTH, HEIGHT = 1400, 860
_SIZES = [2**power for power in range(MAX_GPUS.bit_length())]
_PARTS = {
    "compute": ("computing", LINES[0]),
    "bubble": ("pipeline bubble", LINES[5]),
    "communication": ("communication", LINES[1]),
}


def plot_scaling(name: str, forecasts: Mapping[str, Sequence[Point]], gpu: Gpu, path: Path) -> None:
    """Write the plot to ``path``, a PNG.

    Args:
        forecasts: of each phase by name, as :func:`megatron_mmbert.plan.scaling.scaling` makes them.
    """
    longest = max(forecasts, key=lambda phase: max((point.days for point in forecasts[phase]), default=0.0))
    with figure_file(path, WIDTH, HEIGHT) as figure:
        figure.text(0.02, 0.957, f"{name}: scaling on {gpu.name}", fontsize=17, fontweight="bold")
        links = f"{gpu.node_link / 1e9:g} GB/s in the node, {gpu.network / 1e9:g} GB/s between nodes"
        about = f"forecast by formula, the batch unchanged; {links}"
        figure.text(0.975, 0.959, about, fontsize=11, ha="right", color=FAINT)
        upper = figure.add_axes((0.06, 0.515, 0.915, 0.385))
        lower = figure.add_axes((0.06, 0.125, 0.915, 0.26))
        _efficiency(upper, forecasts)
        _times(lower, longest, forecasts[longest])
        for axes in (upper, lower):
            axes.set_xlim(-0.6, len(_SIZES) - 0.4)


def _efficiency(axes: Any, forecasts: Mapping[str, Sequence[Point]]) -> None:
    groups: dict[tuple[tuple[int, float], ...], list[str]] = {}
    for name, points in forecasts.items():
        curve = tuple((point.gpus, round(point.with_overlap, 3)) for point in points)
        groups.setdefault(curve, []).append(name)
    handles = []
    for number, names in enumerate(groups.values()):
        style: dict[str, Any] = {"color": LINES[number % len(LINES)], "zorder": 3 + number}
        points = forecasts[names[0]]
        places = [_SIZES.index(point.gpus) for point in points]
        axes.plot(places, [point.with_overlap for point in points], marker="o", markersize=4, linewidth=1.8, **style)
        bare = [point.without_overlap for point in points]
        axes.plot(places, bare, marker="x", markersize=6, linewidth=1, linestyle=":", **style)
        handles.append(Line2D([], [], label=", ".join(names), marker="o", markersize=4, **style))
    handles.append(
        Line2D([], [], color=INK, linewidth=1, linestyle=":", marker="x", markersize=6, label="without overlap")
    )
    axes.set(title="efficiency: speed over that of as many single GPUs", ylim=(0, 1.06))
    axes.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0 %", "25 %", "50 %", "75 %", "100 %"])
    axes.set_xticks(range(len(_SIZES)), [f"{size:,}" for size in _SIZES])
    axes.grid(axis="y", color=REST, linewidth=0.5)
    axes.legend(handles=handles, loc="lower left", fontsize=9)


def _times(axes: Any, name: str, points: Sequence[Point]) -> None:
    """A bar for each number of GPUs, with the phase's time and its speed (the highest bold) above it and the layout
    below."""
    found = {point.gpus: point for point in points}
    fastest = max((point.tokens_per_second for point in points), default=0.0)
    labels = []
    for place, size in enumerate(_SIZES):
        point = found.get(size)
        labels.append(_label(size, point.layout if point else None))
        if point is None:
            axes.axvspan(place - 0.5, place + 0.5, color="#f1f1f1", zorder=0, linewidth=0)
            axes.text(place, 0.5, "no layout", fontsize=9, color=FAINT, ha="center", va="center", rotation=90)
            continue
        bottom = 0.0
        for part, (_, colour) in _PARTS.items():
            share = getattr(point.step, part) / point.step.total
            axes.bar(place, share, bottom=bottom, width=0.62, color=colour)
            bottom += share
        weight = "bold" if point.tokens_per_second == fastest else "normal"
        text = f"{clock_time(24 * point.days)}\n{short_count(round(point.tokens_per_second))} tokens/s"
        axes.text(place, 1.03, text, fontsize=8, ha="center", va="bottom", fontweight=weight)
    axes.set_title(f"phase {name}: where a step's time goes", pad=32)
    axes.set(ylim=(0, 1))
    axes.set_yticks([0, 0.5, 1], ["0 %", "50 %", "100 %"])
    axes.set_xticks(range(len(_SIZES)), labels, fontsize=8.5)
    axes.tick_params(axis="x", length=0)
    handles = [Line2D([], [], marker="s", linestyle="", color=colour, label=text) for text, colour in _PARTS.values()]
    corner: dict[str, Any] = {"loc": "lower right", "bbox_to_anchor": (1, 1.18), "borderaxespad": 0}
    axes.legend(handles=handles, ncols=len(handles), fontsize=9, **corner)


def _label(size: int, layout: ParallelLayout | None) -> str:
    """The layout below the number of GPUs, one kind of parallelism a line."""
    if layout is None:
        return f"{size:,}"
    lines = [f"{size:,}", f"dp {layout.data}"]
    lines += [f"tp {layout.tensor}" + " seq" * layout.sequence] * (layout.tensor > 1)
    lines += [f"pp {layout.pipeline}" + (f" x {layout.virtual}" if layout.virtual > 1 else "")] * (layout.pipeline > 1)
    return "\n".join(lines)
