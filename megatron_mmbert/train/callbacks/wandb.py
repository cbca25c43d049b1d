"""Weights & Biases: one run for each phase, resumed by its id."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.callbacks.optional_package import required_package
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.utils.files import write_json


class WeightsAndBiases(Callback):
    """One W&B run for each phase; its id is kept beside the metrics, so that a resumed phase continues it."""

    def __init__(self, folder: PhaseFolder, project: str, name: str, config: dict[str, Any]) -> None:
        wandb = required_package("wandb", "logging.wandb")
        record = folder.path / "wandb.json"
        known = folder.read(record).get("id")
        # The mode (online, offline, disabled) and the key come from W&B's own environment variables.
        self._run: Any = wandb.init(
            project=project, name=name, id=known, resume="allow", dir=str(folder.path), config=config, save_code=False
        )
        if known is None:
            write_json(record, {"id": self._run.id})

    def on_step(self, metrics: StepMetrics) -> None:
        self._run.log(metrics.tracked(), step=metrics.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        self._run.log({f"bits_per_byte/{language}": value for language, value in bits_per_byte.items()})

    def on_event(self, kind: str, text: str) -> None:
        self._run.alert(title=kind, text=text)

    def close(self) -> None:
        self._run.finish()
