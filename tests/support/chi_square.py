"""Statistics of counts, for tests of randomness."""

from __future__ import annotations

import numpy as np


def chi_square(counts: np.ndarray) -> float:
    """Return the chi-square statistic of counts [N] against a uniform choice."""
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2 / expected).sum())
