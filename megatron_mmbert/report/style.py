"""Colours, fonts and number formats that the plots share.

Colours are Okabe and Ito's and Paul Tol's, which people with any of the common colour blindnesses tell apart; where
lines may lie on one another they differ in width and dashes too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from megatron_mmbert.utils.output_kinds import PNG_IMAGE
from megatron_mmbert.utils.outputs import output_file

INK, FAINT, REST = "#222222", "#8a8a8a", "#c9c9c9"
BANDS = ("#f3f5f8", "#ffffff")
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")
MANY = (
    *("#332288", "#88CCEE", "#117733", "#DDCC77", "#882255", "#44AA99"),
    *("#CC6677", "#6699CC", "#999933", "#AA4499", "#661100", "#AA4466"),
)
_SETTINGS: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "axes.titleweight": "bold",
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
}


@contextmanager
def figure_file(path: Path, width: int, height: int) -> Iterator[Figure]:
    """Yield a figure of ``width`` x ``height`` pixels; on leaving it is written to ``path`` as a PNG."""
    with mpl.rc_context(_SETTINGS):
        figure = Figure(figsize=(width / 100, height / 100), dpi=100, facecolor="white")
        FigureCanvasAgg(figure)  # no pyplot: no display is asked for, and no state remains
        yield figure
        with output_file(path, PNG_IMAGE, overwrite=True) as staging:
            figure.savefig(staging, format="png", dpi=100)


def line_style(number: int, of: int) -> dict[str, Any]:
    """Return colour, width and dashes of line ``number`` of ``of`` alternatives, so that equal ones show."""
    dashes = ("-", (0, (5, 2)), (0, (1.2, 1.2)), (0, (6, 2, 1, 2)))
    return {
        "color": LINES[(number + 1) % len(LINES)] if of > 1 else LINES[0],
        "linewidth": 1.8 if of == 1 else 1.4 + 1.3 * (of - 1 - number),
        "linestyle": dashes[number % len(dashes)] if of > 1 else "-",
        "zorder": 3 + number,
    }


def short_count(count: float) -> str:
    """Return a count as ``2.3T``, ``600B``, ``404k``: at most three digits."""
    for unit, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= 0.9995 * unit:
            return f"{count / unit:.3g}{name}"
    return f"{count:.3g}"


def short_names(languages: list[str]) -> dict[str, str]:
    """Return ``eng`` for ``eng_Latn`` where no other language begins so."""
    codes = [language.partition("_")[0] for language in languages]
    return {name: code if codes.count(code) == 1 else name for name, code in zip(languages, codes, strict=True)}


def dark(colour: str) -> bool:
    """Return whether white text reads better on ``colour`` than black."""
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    return 0.299 * red + 0.587 * green + 0.114 * blue < 140
