"""Plots of a token store: its languages by size, its documents by length, and how often a recipe reads them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import LogLocator

from megatron_mmbert.report.shares_plot import empty_note
from megatron_mmbert.report.store.dataset_report import DatasetReport
from megatron_mmbert.report.store.marks import MAX_EPOCHS
from megatron_mmbert.report.style import FAINT, LINES, figure_file, line_style, short_count

WIDTH, HEIGHT = 760, 380
_AXES = (0.1, 0.16, 0.86, 0.72)
_NAMED_RANKS = (1, 3, 10, 30, 100, 300, 1000)
_MAX_NAME = 16


def plot_languages(reports: Sequence[DatasetReport], path: Path) -> None:
    """Write a plot of the datasets' tokens by rank, the marked ones and some names, to ``path``, a PNG."""
    ordered = sorted(reports, key=lambda report: -report.dataset.tokens)
    tokens = np.array([report.dataset.tokens for report in ordered], dtype=np.float64)
    ranks = np.arange(1, len(tokens) + 1)
    marked = np.array([bool(report.marks) for report in ordered])
    with figure_file(path, WIDTH, HEIGHT) as figure:
        axes = figure.add_axes(_AXES)
        axes.set(xscale="log", yscale="log", xlabel="rank by tokens", title="tokens by language")
        axes.plot(ranks, tokens, color=LINES[0], linewidth=1.5, marker="." if len(ranks) < 100 else None)
        axes.plot(ranks[marked], tokens[marked], "o", color=LINES[1], markersize=4, label=f"{marked.sum():,} marked")
        for rank in sorted({*_NAMED_RANKS, len(ordered)} & set(ranks.tolist())):
            report = ordered[rank - 1]
            # Names come from files: a dollar sign would begin a formula.
            name = report.dataset.language[:_MAX_NAME].replace("$", r"\$")
            axes.annotate(name, (rank, report.dataset.tokens), (4, 4), textcoords="offset points", fontsize=8)
        _counts(axes.xaxis)
        _counts(axes.yaxis)
        if marked.any():
            axes.legend(loc="lower left")


def plot_lengths(reports: Sequence[DatasetReport], path: Path) -> None:
    """Write a histogram of all documents by their tokens to ``path``, a PNG."""
    powers = max(len(report.lengths.histogram) for report in reports)
    documents = np.zeros(powers)
    for report in reports:
        documents[: len(report.lengths.histogram)] += report.lengths.histogram
    with figure_file(path, WIDTH, HEIGHT) as figure:
        axes = figure.add_axes(_AXES)
        axes.bar(range(powers), documents, width=0.92, align="edge", color=LINES[0])
        axes.set(xlabel="tokens of a document", title="documents by length")
        axes.set_xticks(range(0, powers + 1, 2), [_power_of_two(power) for power in range(0, powers + 1, 2)])
        _counts(axes.yaxis)


def plot_epochs(reports: Sequence[DatasetReport], phases: Sequence[str], path: Path) -> None:
    """Write a plot of how often each phase has read each dataset by its end, by tokens, to ``path``, a PNG."""
    with figure_file(path, WIDTH, HEIGHT) as figure:
        axes = figure.add_axes(_AXES)
        drawn = 0
        for number, phase in enumerate(phases):
            used = [(r.dataset.tokens, use.run_epochs) for r in reports for use in r.uses if use.phase == phase]
            if used:
                tokens, epochs = zip(*used, strict=True)
                colour = line_style(number, len(phases))["color"]
                axes.plot(tokens, epochs, "o", color=colour, markersize=3, alpha=0.7, label=phase.replace("$", r"\$"))
                drawn += 1
        if not drawn:
            empty_note(axes, "no phase of the recipe reads this store")
            return
        axes.axhline(MAX_EPOCHS, color=FAINT, linewidth=0.8)
        axes.set(xscale="log", yscale="log", xlabel="tokens of text", title="epochs by the end of each phase")
        _counts(axes.xaxis)
        _counts(axes.yaxis)
        axes.legend(fontsize=8)


def _power_of_two(power: int) -> str:
    """Return ``8k`` for 2^13."""
    return f"{2 ** (power % 10)}{('', 'k', 'M', 'G')[power // 10]}"


def _counts(axis: Any) -> None:
    """Write an axis's numbers as the tables do."""
    if axis.get_scale() == "log":
        axis.set_major_locator(LogLocator(subs=(1.0, 3.0), numticks=8))
    axis.set_major_formatter(lambda value, position: short_count(value))
    axis.set_minor_formatter(lambda value, position: "")
