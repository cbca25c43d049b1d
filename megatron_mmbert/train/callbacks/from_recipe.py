"""The callbacks that a recipe's ``logging`` and ``evaluation`` sections ask for. A new callback is added here."""

from __future__ import annotations

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.callbacks.console import Console
from megatron_mmbert.train.callbacks.jsonl import HeldOutFile, MetricsFile
from megatron_mmbert.train.callbacks.mlflow import MLflow
from megatron_mmbert.train.callbacks.tensorboard import TensorBoard
from megatron_mmbert.train.callbacks.tolerant import Tolerant
from megatron_mmbert.train.callbacks.wandb import WeightsAndBiases
from megatron_mmbert.train.counters import Counters


def recipe_callbacks(recipe: Recipe, folder: PhaseFolder, counters: Counters) -> list[Callback]:
    """Return the callbacks of rank 0 for a phase that is at ``counters``."""
    logging, name = recipe.logging, f"{recipe.name}-{folder.phase}"
    files: list[Callback] = [MetricsFile(folder.metrics, counters.step)]
    if recipe.evaluation.stores:
        files.append(HeldOutFile(folder.held_out, counters.step, counters.total_tokens))
    if logging.tensorboard:
        files.append(TensorBoard(folder.tensorboard, counters.step))
    if logging.wandb:
        files.append(WeightsAndBiases(folder, logging.wandb, name, recipe.to_dict()))
    if logging.mlflow:
        files.append(MLflow(folder, logging.mlflow, name, recipe.to_dict()))
    return [Console(logging.every_steps), *map(Tolerant, files)]
