"""The same numbers for TensorBoard, Weights & Biases and MLflow; each optional, chosen in the recipe's ``logging``.

All three resume: a run that was stopped goes on in the same curve. Their packages are imported when they are asked for.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from megatron_mmbert.errors import UserError
from megatron_mmbert.files import write_json
from megatron_mmbert.train.hooks import Hook
from megatron_mmbert.train.progress import Progress

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


def numbers(progress: Progress) -> dict[str, float]:
    """What trackers show of a step, by name."""
    return {f"train/{name}": float(getattr(progress, name)) for name in _NUMBERS}


class TensorBoard(Hook):
    """Event files for TensorBoard: steps of the phase, and held-out scores over all tokens seen in the run."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def on_step(self, progress: Progress) -> None:
        for name, value in numbers(progress).items():
            self._writer.add_scalar(name, value, progress.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        for language, value in bits_per_byte.items():
            self._writer.add_scalar(f"bits_per_byte/{language}", value, progress_tokens)

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases(Hook):
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

    def on_step(self, progress: Progress) -> None:
        self._run.log(numbers(progress), step=progress.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        self._run.log({f"bits_per_byte/{language}": value for language, value in bits_per_byte.items()})

    def on_event(self, kind: str, text: str) -> None:
        self._run.alert(title=kind, text=text)

    def close(self) -> None:
        self._run.finish()


class MLflow(Hook):
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

    def on_step(self, progress: Progress) -> None:
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
