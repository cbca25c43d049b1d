"""What the experiment trackers share: the values of a step that they log, and importing an optional package."""

from __future__ import annotations

import importlib
from typing import Any

from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.utils.errors import UserError

_LOGGED = (
    "loss",
    "lr",
    "mask_ratio",
    "temperature",
    "tokens_per_second",
    "mfu",
    "data_seconds",
    "total_tokens",
)


def tracked_values(progress: StepMetrics) -> dict[str, float]:
    """Return the values of a step that trackers log, by name."""
    return {f"train/{name}": float(getattr(progress, name)) for name in _LOGGED}


def required_package(name: str, key: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{key}: the package {name} is not installed; pip install {name}, or take the key out"
        ) from None
