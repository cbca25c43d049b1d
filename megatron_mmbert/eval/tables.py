"""Plain-text tables of what was measured: held-out bits per byte by language, and what a model fills into masks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from megatron_mmbert.eval.fill_mask import Filled
from megatron_mmbert.utils.text_table import table

if TYPE_CHECKING:
    from megatron_mmbert.eval.bits_per_byte import Score


def scores_table(scores: Mapping[str, Score]) -> str:
    """Return a row for each language, and one of their mean (not weighted) and sums."""
    rows = [[name, f"{score.bits_per_byte:.3f}", f"{score.tokens:,}"] for name, score in scores.items()]
    mean = sum(score.bits_per_byte for score in scores.values()) / len(scores)
    tokens = sum(score.tokens for score in scores.values())
    rows.append([f"mean of {len(scores)} languages", f"{mean:.3f}", f"{tokens:,}"])
    return table(["language", "bits per byte", "scored tokens"], rows, [False, True, True])


def fills_table(filled: Sequence[Filled], top: int) -> str:
    """Return a row for each text with its ``top`` likeliest fills; the language and the expected word where known."""
    with_language = any(each.prompt.language for each in filled)
    with_expected = any(each.prompt.expected for each in filled)
    header = [
        *(["language"] if with_language else []),
        "text",
        *(["expected, rank"] if with_expected else []),
        *map(str, range(1, top + 1)),
    ]
    rows = []
    for each in filled:
        fills = [f"[{fill.shown}]" if fill.is_expected else fill.shown for fill in each.fills]
        rows.append(
            [
                *([each.prompt.language] if with_language else []),
                each.prompt.text,
                *([_expected(each)] if with_expected else []),
                *(f"{shown} {fill.probability:.0%}" for shown, fill in zip(fills, each.fills, strict=True)),
            ]
        )
    return table(header, rows, [False] * len(header))


def expected_line(filled: Sequence[Filled], top: int) -> str | None:
    """Return the sentence that counts how often the expected word is among the fills; None where none is expected."""
    known = [each for each in filled if each.expected_rank is not None]
    hits = sum(any(fill.is_expected for fill in each.fills) for each in known)
    return f"the expected word is among the {top} likeliest in {hits} of {len(known)} texts" if known else None


def _expected(filled: Filled) -> str:
    word = filled.prompt.expected
    if not word:
        return ""
    return f"{word}, not one token" if filled.expected_rank is None else f"{word}, {filled.expected_rank}"
