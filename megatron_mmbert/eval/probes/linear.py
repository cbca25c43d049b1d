"""Logistic regression on frozen features; its strength is chosen on the dev data of the language it learns from."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from megatron_mmbert.eval.probes.subjects import Features
from megatron_mmbert.utils.errors import UserError

_MAX_ITERATIONS, _TOLERANCE = 200, 1e-3


@dataclass(frozen=True)
class Fitted:
    """A fitted probe.

    Attributes:
        strength: the chosen inverse strength of regularization.
        dev_score: accuracy on the dev data.
        majority: the most frequent label of the training sample.
    """

    strength: float
    dev_score: float
    majority: str
    _model: Any
    _mean: np.ndarray | None
    _scale: np.ndarray | None

    def predict(self, features: Features) -> np.ndarray:
        """Return the label of each row."""
        return self._model.predict(_standardized(features, self._mean, self._scale))


def fit(
    train: Features, labels: Sequence[str], dev: Features, dev_labels: Sequence[str], strengths: Sequence[float]
) -> Fitted:
    """Fit a probe for each of ``strengths`` and return the one that is best on the dev data; of equals the strongest.

    Raises:
        UserError: the training sample has one label only.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    names, counts = np.unique(np.array(labels), return_counts=True)
    if len(names) < 2:
        raise UserError(
            f"all {len(labels)} training examples have label {str(names[0])!r}; raise max_train or correct the data"
        )
    mean, scale = _statistics(train)
    train, dev = _standardized(train, mean, scale), _standardized(dev, mean, scale)
    solver = "lbfgs" if mean is not None else "newton-cg"  # of many sparse columns: a quarter of the time
    best: Fitted | None = None
    for strength in strengths:
        model = LogisticRegression(C=strength, max_iter=_MAX_ITERATIONS, tol=_TOLERANCE, solver=solver)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            model.fit(train, labels)
        score = float(np.mean(model.predict(dev) == np.array(dev_labels)))
        if best is None or score > best.dev_score:
            best = Fitted(strength, score, str(names[counts.argmax()]), model, mean, scale)
    assert best is not None
    return best


def _statistics(features: Features) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return mean and deviation of each column of an array; None for n-grams, whose rows are of length 1."""
    if not isinstance(features, np.ndarray):
        return None, None
    return features.mean(0), features.std(0) + 1e-6


def _standardized(features: Features, mean: np.ndarray | None, scale: np.ndarray | None) -> Features:
    return features if mean is None else (features - mean) / scale


def check_installed() -> None:
    """Check that scikit-learn is there.

    Raises:
        UserError: it is not.
    """
    try:
        import sklearn  # noqa: F401
    except ImportError:
        raise UserError(
            "scikit-learn is not installed, by which probes learn; run pip install 'megatron-mmbert[eval]'"
        ) from None
