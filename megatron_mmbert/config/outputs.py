"""The recipe's ``checkpoint``, ``logging`` and ``evaluation`` sections: what a run writes while it trains."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator

from megatron_mmbert.config.base import Section
from megatron_mmbert.config.values import PositiveCount, parse_count, within


class CheckpointConfig(Section):
    """The rhythm of checkpoints, and which of them stay."""

    every_tokens: PositiveCount = 10_000_000_000
    """Tokens of the phase between two checkpoints."""
    keep_last: Annotated[int, within(1, 1_000_000)] = 2
    """The number of newest checkpoints that stay."""
    keep_every_tokens: PositiveCount | None = None
    """Besides the last ones, the first checkpoint after each so many tokens of the phase stays for good."""
    asynchronous: bool = True
    """Write while training continues, from a copy in host memory of what a rank writes; else training waits."""
    on_failure: Literal["continue", "stop"] = "continue"
    """The reaction when a checkpoint cannot be written, as on a full disk; at the end of a phase, or asked to stop, the
    run always ends with the reason."""
    resume_check: Literal["stop", "warn", "none"] = "stop"
    """A save records the beginning of a batch and the loss on it; a resume that finds another loss stops, or warns."""


class LoggingConfig(Section):
    """The log of each step, and who else gets it."""

    every_steps: Annotated[int, within(1, 10**9)] = 1
    """Steps between two lines on the console; files and trackers get every step."""
    tensorboard: bool = True
    """Write TensorBoard's event files, where the package is installed."""
    wandb: str | None = None
    """Project of Weights & Biases to log to; its own environment variables say mode and key."""
    mlflow: str | None = None
    """Experiment of MLflow to log to, at the address in MLFLOW_TRACKING_URI."""
    stop_signals: list[Literal["SIGTERM", "SIGUSR1", "SIGUSR2"]] = ["SIGTERM", "SIGUSR1", "SIGUSR2"]
    """Signals that end the step on all ranks, save, and end the run; a second SIGTERM ends it at once."""
    peak_tflops: Annotated[float, within(0, 1e6, above=True)] | None = None
    """Matrix-product peak of one device in TFLOP/s, the denominator of MFU; measured at start when not given."""


class EvaluationConfig(Section):
    """Held-out bits per byte by language, before and after each phase, and on the way."""

    stores: list[Path] = []
    """Folders of held-out text, as tools/preprocess_data.py makes them; none: nothing is scored."""
    every_tokens: PositiveCount | None = None
    """Score also whenever a phase has trained this many more tokens; null: only before and after it."""
    mask_ratio: Annotated[float, within(0, 1, above=True, below=True)] = 0.15
    """The part of the held-out positions that is masked in a round."""
    tokens_per_language: Annotated[int, BeforeValidator(parse_count), within(1, 10**9)] = 4096
    """Tokens of each language that are scored."""
    rounds: Annotated[int, within(1, 1000)] = 1
    """Each held-out sample is masked this many times, each time elsewhere."""
