"""MLflow: one run for each phase, resumed by its id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.callbacks.optional_package import required_package
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.utils.files import write_json


class MLflow(Callback):
    """One MLflow run for each phase, at the tracking address that MLflow's own variables name (default: a folder)."""

    def __init__(self, folder: PhaseFolder, experiment: str, name: str, config: dict[str, Any]) -> None:
        self._mlflow: Any = required_package("mlflow", "logging.mlflow")
        record = folder.path / "mlflow.json"
        known = folder.read(record).get("id")
        self._mlflow.set_experiment(experiment)
        run = self._mlflow.start_run(run_id=known, run_name=None if known else name)
        if known is None:
            write_json(record, {"id": run.info.run_id})
            self._mlflow.log_dict(config, "recipe.json")

    def on_step(self, metrics: StepMetrics) -> None:
        self._mlflow.log_metrics(metrics.tracked(), step=metrics.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        # MLflow counts in int64 steps; tokens fit.
        values = {f"bits_per_byte/{language}": value for language, value in bits_per_byte.items()}
        self._mlflow.log_metrics(values, step=total_tokens)

    def on_event(self, kind: str, text: str) -> None:
        self._mlflow.set_tag(f"event: {kind}", text)

    def close(self) -> None:
        self._mlflow.end_run()
