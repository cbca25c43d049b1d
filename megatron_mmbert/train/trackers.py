"""The same numbers for TensorBoard, Weights & Biases and MLflow; each optional, chosen in the recipe's ``logging``.

All three resume: a run that was stopped goes on in the same curve. Their packages are imported when they are asked for.
"""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_mmbert.train.callbacks import Callback
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import write_json

_NUMBERS = (
    "loss",
    "lr",
    "mask_ratio",
    "temperature",
    "tokens_per_second",
    "peak_share",
    "data_seconds",
    "total_tokens",
)


def numbers(progress: StepMetrics) -> dict[str, float]:
    """What trackers show of a step, by name."""
    return {f"train/{name}": float(getattr(progress, name)) for name in _NUMBERS}


class TensorBoard(Callback):
    """Event files for TensorBoard: steps of the phase, and held-out scores over all tokens seen in the run.

    After an error of the disk, what is new goes to a new file: the old one may end within a record.
    """

    _FLUSH_SECONDS = 20.0

    def __init__(self, folder: Path, resumed_step: int) -> None:
        self._folder = folder
        self._writer: Any = self._open(resumed_step + 1)

    def on_step(self, progress: StepMetrics) -> None:
        self._add({name: (value, progress.step) for name, value in numbers(progress).items()})

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        self._add({f"bits_per_byte/{name}": (value, progress_tokens) for name, value in bits_per_byte.items()})

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()

    def _open(self, purge_step: int | None = None) -> Any:
        from torch.utils.tensorboard import SummaryWriter

        # Its own thread would die of a full disk; so it flushes never, and this thread does.
        writer = SummaryWriter(str(self._folder), purge_step=purge_step, flush_secs=10**9)
        self._flushed = time.monotonic()
        return writer

    def _add(self, values: Mapping[str, tuple[float, int]]) -> None:
        self._writer = self._writer or self._open()
        try:
            for name, (value, place) in values.items():
                self._writer.add_scalar(name, value, place)
            if time.monotonic() - self._flushed >= self._FLUSH_SECONDS:
                self._writer.flush()
                self._flushed = time.monotonic()
        except OSError:
            self._writer = None
            raise


class WeightsAndBiases(Callback):
    """One W&B run for each phase; its id is kept beside the metrics, so that a resumed phase goes on in it."""

    def __init__(self, folder: Path, project: str, name: str, config: dict[str, Any]) -> None:
        wandb = _package("wandb", "logging.wandb")
        record = folder / "wandb.json"
        known = json.loads(record.read_text(encoding="utf-8"))["id"] if record.exists() else None
        # The mode (online, offline, disabled) and the key come from W&B's own environment variables.
        self._run: Any = wandb.init(
            project=project, name=name, id=known, resume="allow", dir=str(folder), config=config, save_code=False
        )
        if known is None:
            write_json(record, {"id": self._run.id})

    def on_step(self, progress: StepMetrics) -> None:
        self._run.log(numbers(progress), step=progress.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        self._run.log({f"bits_per_byte/{language}": value for language, value in bits_per_byte.items()})

    def on_event(self, kind: str, text: str) -> None:
        self._run.alert(title=kind, text=text)

    def close(self) -> None:
        self._run.finish()


class MLflow(Callback):
    """One MLflow run for each phase, at the tracking address that MLflow's own variables name (default: a folder)."""

    def __init__(self, folder: Path, experiment: str, name: str, config: dict[str, Any]) -> None:
        self._mlflow: Any = _package("mlflow", "logging.mlflow")
        record = folder / "mlflow.json"
        known = json.loads(record.read_text(encoding="utf-8"))["id"] if record.exists() else None
        self._mlflow.set_experiment(experiment)
        run = self._mlflow.start_run(run_id=known, run_name=None if known else name)
        if known is None:
            write_json(record, {"id": run.info.run_id})
            self._mlflow.log_dict(config, "recipe.json")

    def on_step(self, progress: StepMetrics) -> None:
        self._mlflow.log_metrics(numbers(progress), step=progress.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        # MLflow counts in int64 steps; tokens fit.
        values = {f"bits_per_byte/{language}": value for language, value in bits_per_byte.items()}
        self._mlflow.log_metrics(values, step=progress_tokens)

    def on_event(self, kind: str, text: str) -> None:
        self._mlflow.set_tag(f"event: {kind}", text)

    def close(self) -> None:
        self._mlflow.end_run()


def _package(name: str, key: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise UserError(
            f"{key}: the package {name} is not installed; pip install {name}, or take the key out"
        ) from None
