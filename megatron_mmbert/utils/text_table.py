"""Plain-text tables that line up in a terminal, also where cells hold wide, combining or right-to-left characters."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

LEFT_TO_RIGHT_MARK = "\u200e"
_ZERO_WIDTH = {"Mn", "Me", "Cf"}


def display_width(text: str) -> int:
    """Columns that a terminal gives ``text``: 2 for East Asian wide characters, 0 for combining and invisible ones."""
    return sum(
        0
        if unicodedata.category(character) in _ZERO_WIDTH
        else 2
        if unicodedata.east_asian_width(character) in "WF"
        else 1
        for character in text
    )


def pad(text: str, width: int, right: bool = False) -> str:
    """``text`` filled with spaces to ``width`` columns; ``right`` aligns it to the right.

    A cell with right-to-left characters ends in a left-to-right mark: without it, a terminal that orders text would
    let it swap places with its neighbours.
    """
    space = " " * (width - display_width(text))
    if any(unicodedata.bidirectional(character) in ("R", "AL") for character in text):
        text += LEFT_TO_RIGHT_MARK
    return space + text if right else text + space


def table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], gap: str = "  ") -> str:
    """Header, a rule and rows as lines of equal columns; a header's cell may have several lines (``\\n``).

    Args:
        right: for each column whether it is aligned to the right.
    """
    cells = [title.split("\n") for title in header]
    height = max(map(len, cells))
    headers = [[""] * (height - len(lines)) + lines for lines in cells]
    lines = [*(list(row) for row in zip(*headers, strict=True)), *(list(row) for row in rows)]
    widths = [max(display_width(line[column]) for line in lines) for column in range(len(header))]
    text = [
        gap.join(pad(cell, width, side) for cell, width, side in zip(line, widths, right, strict=True)).rstrip(" ")
        for line in lines
    ]
    return "\n".join([*text[:height], gap.join("-" * width for width in widths), *text[height:]])
