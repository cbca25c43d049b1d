"""Intervals and paired tests of scores that are a sum over a sum by example, averaged over languages.

Examples are drawn anew within each language (bootstrap; Efron, 1979), the same ones for all that are compared.
Languages are tested by flipping the signs of their differences (Fisher's randomization), which asks whether other
languages of the same kind would show it too.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES, FLIPS = 1000, 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Counts:
    """Numerators and denominators by example, fp64 [N], means over seeds."""

    numerators: np.ndarray
    denominators: np.ndarray

    @property
    def score(self) -> float:
        """The score of all examples."""
        return _ratio(self.numerators.sum(), self.denominators.sum())


@dataclass(frozen=True)
class Comparison:
    """A difference of two means over languages.

    Attributes:
        low, high: its interval over examples.
        p_examples: the chance of a difference as large, by examples drawn anew, were there none.
        p_languages: the same by flipped signs of languages; None for fewer than 6, where no result could be small.
        finding: ``better``, ``worse`` or ``no difference shown``, by the interval over examples.
    """

    difference: float
    low: float
    high: float
    p_examples: float
    p_languages: float | None
    finding: str


class Resampler:
    """Draws of the examples of each language, the same for everyone who asks by the same name."""

    def __init__(self) -> None:
        self._weights: dict[tuple[str, int], np.ndarray] = {}

    def scores(self, name: str, counts: Counts) -> np.ndarray:
        """Return the scores of a language under :data:`RESAMPLES` draws, fp64 [R]."""
        size = len(counts.numerators)
        key = (name, size)
        if key not in self._weights:
            rng = np.random.default_rng(zlib.crc32(name.encode()))
            self._weights[key] = rng.multinomial(size, np.full(size, 1 / size), RESAMPLES).astype(np.float32)
        weights = self._weights[key]
        sums = weights @ np.stack([counts.numerators, counts.denominators], 1).astype(np.float32)
        return np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)

    def mean(self, counts: Mapping[str, Counts]) -> np.ndarray:
        """Return means over languages under the draws, fp64 [R]."""
        return np.mean([self.scores(name, each) for name, each in counts.items()], axis=0)


def interval(drawn: np.ndarray) -> tuple[float, float]:
    """Return the bounds between which :data:`LEVEL` of the draws lie."""
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def compare(
    ours: Mapping[str, Counts], theirs: Mapping[str, Counts], resampler: Resampler, lower_is_better: bool
) -> Comparison | None:
    """Compare two subjects on the languages that both have; None where there is none."""
    names = [name for name in ours if name in theirs]
    if not names:
        return None
    by_language = np.array([ours[name].score - theirs[name].score for name in names])
    drawn = resampler.mean({name: ours[name] for name in names})
    drawn = drawn - resampler.mean({name: theirs[name] for name in names})
    low, high = interval(drawn)
    p_examples = min(1.0, 2 * min(np.mean(drawn <= 0), np.mean(drawn >= 0)) + 1 / RESAMPLES)
    up, down = ("worse", "better") if lower_is_better else ("better", "worse")
    finding = up if low > 0 else down if high < 0 else "no difference shown"
    return Comparison(float(by_language.mean()), low, high, float(p_examples), sign_flips(by_language), finding)


def sign_flips(differences: Sequence[float] | np.ndarray) -> float | None:
    """Return how often flipped signs give a mean as far from 0; None for fewer than 6 languages."""
    values = np.asarray(differences, dtype=float)
    if len(values) < 6:
        return None
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], size=(FLIPS, len(values)))
    far = np.abs((signs * values).mean(1)) >= abs(values.mean()) - 1e-12
    return float((far.sum() + 1) / (FLIPS + 1))


def _ratio(numerator: float, denominator: float) -> float:
    return float(numerator / denominator) if denominator else 0.0
