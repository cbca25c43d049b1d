"""Ranges of numbers, for recipe and flags alike, and the largest values that make sense.

What is larger is a slip of the pen, refused when it is read and not by the memory or the patience that it would use up.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_COUNT = 10**15
"""Tokens, bytes, documents."""
MAX_LENGTH = 2**20
"""Tokens of a sample."""
MAX_DOCUMENT_BYTES = 2**30
"""Bytes of a line, or of a row's text: a document is tokenized whole."""
MAX_VOCAB_SIZE = 2**24
"""Ids of a vocabulary."""
MAX_PACK_TOKENS = 2**24
"""Tokens that are computed at once."""
MAX_PROCESSES = 1024
"""Worker processes that one process starts."""
MAX_RANKS = 2**20
"""GPUs, nodes, jobs."""
MAX_THETA = 1e12
"""Base of the rotary embedding."""


@dataclass(frozen=True)
class Range:
    """The finite numbers from ``low`` to ``high``; ``above`` leaves out ``low`` itself, ``below`` ``high``."""

    low: float
    high: float
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        """Return whether ``value`` lies in the range; NaN lies in none."""
        return (
            self.low <= value <= self.high
            and not (self.above and value == self.low)
            and not (self.below and value == self.high)
        )

    def __str__(self) -> str:
        """Return the range in words: ``between 1 and 1,000``."""
        low, high = _text(self.low), _text(self.high)
        if not (self.above or self.below):
            return f"between {low} and {high}"
        return f"{'above' if self.above else 'at least'} {low} and {'below' if self.below else 'at most'} {high}"


def _text(bound: float) -> str:
    return f"{bound:,}" if isinstance(bound, int) else f"{bound:g}"
