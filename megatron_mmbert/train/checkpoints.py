"""Checkpoints of a phase in training: begun, polled between steps, waited for; callbacks are told how each ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from megatron_mmbert.checkpoint import training_state
from megatron_mmbert.checkpoint.async_saver import AsyncSaver, Outcome
from megatron_mmbert.checkpoint.discovery import ValidCheckpoints, step_folder
from megatron_mmbert.checkpoint.metadata import CheckpointMeta, RecordedBatch
from megatron_mmbert.checkpoint.retention import apply_retention
from megatron_mmbert.config.outputs import CheckpointConfig
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.parallel.runtime import broadcast_object, current
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.resume_check import record
from megatron_mmbert.train.step import Training
from megatron_mmbert.utils.errors import UserError


class PhaseCheckpoints:
    """Saves the checkpoints of one phase; all methods but :meth:`cancel` are called by all ranks together.

    Args:
        folder: of the phase's checkpoints.
        meta: what the descriptions of all of them have in common.
        saved_step: the step of the checkpoint that the phase was resumed from; it need not be written again.

    Attributes:
        saver: writes one checkpoint at a time.
        pack_to_record: one of the packs last trained on; the next checkpoint records its beginning and the loss on it.
    """

    def __init__(
        self,
        folder: Path,
        settings: CheckpointConfig,
        training: Training,
        meta: CheckpointMeta,
        saved_step: int | None = None,
    ) -> None:
        self.saver = AsyncSaver(settings.asynchronous, self._apply_retention)
        self._valid = ValidCheckpoints()
        self.pack_to_record: PackedBatch | None = None
        self._folder, self._settings, self._training, self._meta = folder, settings, training, meta
        self._saved_step = saved_step

    def save(self, step: int, progress: Callable[[], dict[str, Any]], callbacks: Callback, last: bool = False) -> Path:
        """Begin a checkpoint of this moment, unless there is one of ``step``; returns its folder.

        Args:
            progress: asked for the fields of the description that change from step to step.
            last: nothing comes after it, so it is waited for.

        Raises:
            UserError: it could not be written, and it is the last one or the recipe says that this ends the run.
        """
        path = step_folder(self._folder, step)
        if step != self._saved_step:
            self.wait_for_save(callbacks)
            callbacks.on_save_begin()
            started = time.perf_counter()
            self._training.gather_parameters()
            self._saved_step = step
            state = training_state.state_of(self._training.encoders, self._training.optimizer)
            meta = self._meta.model_copy(update=progress() | {"step": step, "replay": self._recorded_batch()})
            self._report(self.saver.begin(path, meta, state, started), callbacks, last)
        if last:
            self._report(self.saver.wait(), callbacks, last)
        return path

    def verify(self, path: Path) -> None:
        """Read the last checkpoint of the phase once more: only what is there and whole may be called complete.

        Raises:
            UserError: on every rank, if it is not.
        """
        problem = broadcast_object(ValidCheckpoints().problem(path) if current().is_main else None)
        if problem is not None:
            raise UserError(f"the last checkpoint is not whole: {problem}; look at the disk, and run it again")

    def poll_save(self, callbacks: Callback) -> None:
        """Advance the checkpoint that is being written without waiting for it; between any two steps."""
        self._report(self.saver.poll(), callbacks)

    def wait_for_save(self, callbacks: Callback) -> None:
        """Wait for the checkpoint that is being written."""
        self._report(self.saver.wait(), callbacks)

    def cancel(self) -> None:
        """End the writer of a checkpoint that an error interrupts."""
        self.saver.cancel()

    def _report(self, outcome: Outcome | None, callbacks: Callback, last: bool = False) -> None:
        if outcome is None:
            return
        if not outcome.problem:
            callbacks.on_save(outcome.path, outcome.stalled, outcome.wrote)
            return
        self._saved_step = None
        if last or self._settings.on_failure == "stop":
            raise UserError(outcome.problem)
        callbacks.on_event("save failed", f"{outcome.problem}; training continues")

    def _recorded_batch(self) -> RecordedBatch | None:
        pack = self.pack_to_record
        return None if pack is None or self._settings.resume_check == "none" else record(self._training.encoders, pack)

    def _apply_retention(self, written: Path) -> None:
        self._valid.add(written)
        apply_retention(written.parent, self._settings.keep_last, self._settings.keep_every_tokens, self._valid)
