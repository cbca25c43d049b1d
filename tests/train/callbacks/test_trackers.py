"""TensorBoard, Weights & Biases (offline) and MLflow (a local file): the real packages, stopped and resumed."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
from support.step_metrics import step_metrics

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.train.callbacks.mlflow import MLflow
from megatron_mmbert.train.callbacks.optional_package import required_package
from megatron_mmbert.train.callbacks.tensorboard import TensorBoard
from megatron_mmbert.train.callbacks.wandb import WeightsAndBiases
from megatron_mmbert.utils.errors import UserError


def test_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = TensorBoard(tmp_path, 0)
    for step in (1, 2):
        callback.on_step(step_metrics(step))
    callback.on_scores("after", {"eng_Latn": 2.5}, 1024)
    callback.close()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [event.step for event in found.Scalars("train/loss")] == [1, 2]
    assert found.Scalars("train/loss")[0].value == 3.25
    assert found.Scalars("bits_per_byte/eng_Latn")[0].step == 1024


def test_mlflow_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file:{tmp_path}/runs")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.chdir(tmp_path)
    for step in (1, 2):
        callback = MLflow(PhaseFolder(tmp_path.parent, tmp_path.name), "languages", "first", {"seed": 5})
        callback.on_step(step_metrics(step))
        callback.on_scores("after", {"eng_Latn": 2.5}, 512 * step)
        callback.close()
    run = json.loads((tmp_path / "mlflow.json").read_text())["id"]
    history = mlflow.MlflowClient().get_metric_history(run, "train/loss")
    assert [(metric.step, metric.value) for metric in history] == [(1, 3.25), (2, 3.25)]
    scores = mlflow.MlflowClient().get_metric_history(run, "bits_per_byte/eng_Latn")
    assert [metric.step for metric in scores] == [512, 1024]


def test_wandb_goes_on_in_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        callback = WeightsAndBiases(PhaseFolder(tmp_path.parent, tmp_path.name), "languages", "first", {"seed": 5})
        callback.on_step(step_metrics(step))
        callback.close()
    run = json.loads((tmp_path / "wandb.json").read_text())["id"]
    files = list(tmp_path.rglob(f"run-{run}.wandb"))
    assert len(files) == 2, "two sessions of one run"
    deadline = time.monotonic() + 20  # another process of wandb's writes them
    while not (written := all(b"train/loss" in file.read_bytes() for file in files)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert written


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(UserError, match=r"logging.wandb: the package no_such_package is not installed; pip install"):
        required_package("no_such_package", "logging.wandb")
