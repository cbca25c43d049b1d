"""The state of one phase in training: model, optimizer, data, counters and checkpoints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_mmbert.builders.data import tokenizer_of
from megatron_mmbert.builders.loader import build_loader
from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.builders.schedules import PhaseSchedules, empty_packs_text, phase_schedules
from megatron_mmbert.checkpoint import training_state
from megatron_mmbert.checkpoint.identity import check_tokenizer, tokenizer_values
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.kernels.matmul_peak import measured_tflops
from megatron_mmbert.model.init import initialize
from megatron_mmbert.parallel.runtime import current, print_once
from megatron_mmbert.resilience.stragglers import StragglerDetector
from megatron_mmbert.train.anomaly_guard import AnomalyGuard
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.checkpoints import PhaseCheckpoints
from megatron_mmbert.train.counters import Counters
from megatron_mmbert.train.resume import (
    StartingPoint,
    find_starting_point,
    fresh_meta,
    load,
    newest_checkpoint,
    refuse_damaged,
    resume,
)
from megatron_mmbert.train.step import Training, build_training


class Trainer:
    """One phase in training; the loop in :mod:`megatron_mmbert.train.loop` takes its steps.

    Attributes:
        start: what the phase was loaded from.
        schedules: learning rate, batch size and weight decay by tokens.
        training: this rank's model chunks and their optimizer.
        checkpoints: saves the phase's checkpoints.
        peak_flops: matrix-product FLOP/s of this device, by which MFU is measured.
    """

    def __init__(
        self,
        recipe: Recipe,
        phase: Phase,
        folder: PhaseFolder,
        start: StartingPoint,
        loader: PackLoader,
        schedules: PhaseSchedules,
        training: Training,
        checkpoints: PhaseCheckpoints,
        peak_flops: float,
    ) -> None:
        self.recipe, self.phase, self.folder, self.start = recipe, phase, folder, start
        self.counters = Counters.of(start.meta)
        self.loader, self.schedules, self.training, self.checkpoints = loader, schedules, training, checkpoints
        self.guard = AnomalyGuard(recipe.stability, start.meta.recent_losses)
        self.stragglers = StragglerDetector(recipe.resilience.straggler_ratio)
        self.peak_flops = peak_flops

    @property
    def is_complete(self) -> bool:
        """True when all tokens of the phase have been seen."""
        return self.counters.phase_tokens >= self.phase.tokens

    def save(self, callbacks: Callback, last: bool = False) -> Path:
        """Begin a checkpoint of this moment; see :meth:`PhaseCheckpoints.save`."""
        return self.checkpoints.save(self.counters.step, self._progress, callbacks, last)

    def rewind(self, callbacks: Callback) -> None:
        """Take weights and optimizer back to the newest valid checkpoint, or to the start of the phase.

        Counters and data continue, so that the samples in between are not seen again.

        Raises:
            UserError: the phase has checkpoints, and none is valid.
        """
        self.checkpoints.wait_for_save(callbacks)
        path = newest_checkpoint(self.folder)
        if path is None:
            refuse_damaged(self.folder)
            path = self.start.path
        if path is None:
            for encoder in self.training.encoders:
                initialize(encoder, self.recipe.seed)
            self.training.optimizer.reload_model_params()
            print_once("no checkpoint to go back to: the weights are the initial ones again")
            return
        meta = training_state.check_shape(path, self.recipe.model, self.phase.allow_different)
        load(self.training, path, meta.has_optimizer)
        print_once(f"the weights are those of {path} again")

    def close(self) -> None:
        """Stop the loader's workers, and a checkpoint's writer if an error comes before its end."""
        self.checkpoints.cancel()
        self.loader.close()

    def _progress(self) -> dict[str, Any]:
        return {
            "phase_tokens": self.counters.phase_tokens,
            "total_tokens": self.counters.total_tokens,
            "loader": self.loader.state_dict(),
            "finished": self.is_complete,
            "recent_losses": self.guard.rule.losses,
        }


def build_trainer(
    recipe: Recipe, phase: Phase, output: Path, start: StartingPoint | None = None, max_packs: int | None = None
) -> Trainer:
    """Build all that a phase needs and load its starting point; called by all ranks together.

    Args:
        output: the run's folder.
        start: a point that is not finished; None: the one that :func:`find_starting_point` finds.
        max_packs: the most packs of one micro batch where the recipe leaves it open; None for one.

    Raises:
        UserError: the data, the tokenizer or the checkpoint does not fit the recipe.
    """
    runtime = current()
    start = find_starting_point(recipe, phase, output) if start is None else start
    folder, tokenizer = PhaseFolder(output, phase.name), tokenizer_of(recipe)
    if start.path is not None:
        check_tokenizer(start.path, start.meta, tokenizer, phase.allow_different)
    schedules = phase_schedules(recipe, phase, runtime.dp_size, max_packs)
    if idle := empty_packs_text(phase, schedules.batch, schedules.split):
        print_once(f"warning: {idle}")
    loader = build_loader(recipe, phase, tokenizer, start.meta.history, runtime, schedules.step_packs)
    training = build_training(recipe, phase, micro_batch_tokens=schedules.split.max_packs * phase.batch.pack_tokens)
    resume(training, start, recipe.checkpoint.resume_check)
    if start.meta.loader:
        loader.load_state_dict(start.meta.loader)
    described = fresh_meta(recipe, phase).model_copy(
        update={
            "history": start.meta.history,
            **tokenizer_values(start.meta, tokenizer),
            "origin": start.origin,
        }
    )
    saved_step = start.meta.step if start.is_own else None
    checkpoints = PhaseCheckpoints(folder.checkpoints, recipe.checkpoint, training, described, saved_step)
    tflops = recipe.logging.peak_tflops or measured_tflops(runtime.device, training.config.params_dtype)
    return Trainer(recipe, phase, folder, start, loader, schedules, training, checkpoints, 1e12 * tflops)
