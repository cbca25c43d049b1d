"""Everything one phase's training holds: model, optimizer, data, clocks; started, resumed and saved here."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

from megatron_mmbert.builders.data import data_phase, stores_of, token_ids, tokenizer_of, trained_resume_points
from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.builders.schedules import batch_ramp, lr_schedule
from megatron_mmbert.checkpoint import training_state as checkpoints
from megatron_mmbert.checkpoint.async_saver import AsyncSaver, Outcome
from megatron_mmbert.checkpoint.folder import (
    CheckpointMeta,
    apply_retention,
    newest_valid,
    remove_leftovers,
    resolve,
    step_folder,
)
from megatron_mmbert.checkpoint.phase_transition import explain, transition
from megatron_mmbert.config.recipe import Phase, Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.eval.bits_per_byte import HeldOut, held_out
from megatron_mmbert.kernels.matmul_peak import measured_tflops
from megatron_mmbert.model.init import initialize
from megatron_mmbert.parallel.runtime import Runtime, broadcast_object
from megatron_mmbert.resilience.stragglers import StragglerDetector
from megatron_mmbert.train.anomaly_guard import AnomalyGuard
from megatron_mmbert.train.callbacks import Callback
from megatron_mmbert.train.resume_check import check, record
from megatron_mmbert.train.step import Training, build, weight_decay_of
from megatron_mmbert.utils.errors import UserError


class Trainer:
    """One phase in training.

    Attributes:
        step, phase_tokens: the clocks; ``tokens_before`` are real tokens of earlier phases.
        finished: the phase was complete before this process started.
        last_pack: one of those last trained on; the next checkpoint records its beginning.
        saver: writes the phase's checkpoints.
    """

    def __init__(
        self, recipe: Recipe, phase: Phase, output: Path, runtime: Runtime, start_from: Path | None = None
    ) -> None:
        """Build everything and load the newest checkpoint of the phase, else what the phase starts from.

        Args:
            start_from: a checkpoint to start the phase from in place of the recipe's choice.

        Raises:
            UserError: the data, the tokenizer or the checkpoint does not fit the recipe.
        """
        self.recipe, self.phase, self.runtime = recipe, phase, runtime
        self.folder = PhaseFolder(output, phase.name)
        self._say = print if runtime.is_main else (lambda *_: None)
        path, meta = self._starting_point(output, start_from)
        self.finished = path is not None and path.parent == self.folder.checkpoints and meta.finished
        if self.finished:
            return
        tokenizer = tokenizer_of(recipe)
        self._fingerprint = tokenizer.fingerprint()
        ids = token_ids(tokenizer, with_words=recipe.data.masking_unit == "word")
        stores = stores_of(recipe.data.stores, tokenizer)
        self._history = meta.history
        places = trained_resume_points(recipe, meta.history, stores, self._say)
        settings = data_phase(recipe, phase, stores, self._say, places)
        self.loader = PackLoader(
            stores,
            settings,
            ids,
            runtime.dp_rank,
            runtime.dp_size,
            num_workers=recipe.data.workers,
            pin_memory=runtime.device.type == "cuda",
        )
        self._held_out: HeldOut | None = None
        if recipe.evaluation.stores:
            heldout_stores = stores_of(recipe.evaluation.stores, tokenizer)
            self._held_out = held_out(recipe, heldout_stores, ids, tokenizer.piece_bytes)
        self.lr_schedule = lr_schedule(phase)
        self.batch_ramp = batch_ramp(phase, runtime.dp_size, recipe.parallel)
        self.weight_decay = weight_decay_of(recipe, phase)
        self.training: Training = build(recipe, phase)
        self.guard = AnomalyGuard(recipe.numbers, meta.recent_losses)
        self.stragglers = StragglerDetector(recipe.numbers.slow_rank)
        self.last_pack: PackedBatch | None = None
        self.saver = AsyncSaver(recipe.checkpoint.asynchronous, self._prune)
        self._start: tuple[Path | None, CheckpointMeta] = (path, meta)
        self._take_up(path, meta)
        self.peak_flops = 1e12 * (
            recipe.logging.peak_tflops or measured_tflops(runtime.device, self.training.config.params_dtype)
        )

    def _starting_point(self, output: Path, start_from: Path | None) -> tuple[Path | None, CheckpointMeta]:
        """The checkpoint to load and what this phase's state is when it starts from it."""
        if self.runtime.is_main:
            remove_leftovers(self.folder.checkpoints)
        # One rank reads and checks all files: a disk should not have to deliver them to a thousand ranks.
        own = broadcast_object(newest_valid(self.folder.checkpoints, self._say) if self.runtime.is_main else None)
        if own is not None:
            meta = checkpoints.check_shape(own, self.recipe.model)
            if not meta.finished:
                self._say(f"resuming {own} at step {meta.step}, {meta.phase_tokens:,} tokens")
            return own, meta
        origin = self.recipe.origin(self.phase)
        if start_from is None and origin is None:
            return None, fresh_meta(self.recipe, self.phase)
        path = resolve(start_from if start_from is not None else PhaseFolder(output, str(origin)).path)
        before = checkpoints.check_shape(path, self.recipe.model)
        if start_from is None and not before.finished:
            raise UserError(
                f"{path}: phase {origin!r} has not finished ({before.phase_tokens:,} tokens); run it to its end, or "
                f"give this checkpoint as --start-from to go on from it as it is"
            )
        after = transition(before, self.recipe, self.phase)
        self._say("\n".join((f"starting phase {self.phase.name} from {path}", *explain(before, after))))
        return path, after

    def _take_up(self, path: Path | None, meta: CheckpointMeta) -> None:
        self.step, self.phase_tokens = meta.step, meta.phase_tokens
        # What was loaded from this phase's own folder need not be written again.
        self._saved_step = meta.step if path is not None and path.parent == self.folder.checkpoints else None
        self.tokens_before = meta.total_tokens - meta.phase_tokens
        self._origin = meta.origin or (str(path) if path else "random initial weights")
        if path is not None:
            checkpoints.load(path, self.training.encoders, self.training.optimizer if meta.has_optimizer else None)
            if not meta.has_optimizer:
                self.training.optimizer.reload_model_params()
            if self._saved_step is not None:
                self._replay(path, meta)
        if meta.loader:
            self.loader.load_state_dict(meta.loader)

    def _replay(self, path: Path, meta: CheckpointMeta) -> None:
        """Compare the loss on the batch that a checkpoint of this phase, just loaded, has recorded."""
        if self.recipe.checkpoint.replay == "none":
            return
        if meta.replay is None:
            self._say(f"{path}: no batch recorded, so none is replayed")
            return
        try:
            self._say(check(path, meta.replay, self.training.encoders))
        except UserError as error:
            if self.recipe.checkpoint.replay == "stop":
                raise
            self._say(f"warning: {error}")

    def rewind(self, callbacks: Sequence[Callback] = ()) -> None:
        """Weights and optimizer of the newest sound checkpoint, or of the start; clocks and data go on, so that the
        samples in between are not seen again."""
        self.settle(callbacks)
        path = broadcast_object(newest_valid(self.folder.checkpoints, self._say) if self.runtime.is_main else None)
        path = path or self._start[0]
        if path is None:
            for encoder in self.training.encoders:
                initialize(encoder, self.recipe.seed)
            self.training.optimizer.reload_model_params()
            self._say("no checkpoint to go back to: the weights are the initial ones again")
            return
        has_optimizer = checkpoints.check_shape(path, self.recipe.model).has_optimizer
        checkpoints.load(path, self.training.encoders, self.training.optimizer if has_optimizer else None)
        self._say(f"the weights are those of {path} again")

    def save(self, callbacks: Sequence[Callback] = (), last: bool = False) -> Path:
        """Begin a checkpoint of this moment, unless this process has just done so; returns its folder.

        Args:
            last: nothing comes after it, so it is waited for.

        Raises:
            UserError: it could not be written, and it is the last one or the recipe says that this ends the run.
        """
        path = step_folder(self.folder.checkpoints, self.step)
        if self.step != self._saved_step:
            self.settle(callbacks)
            started = time.perf_counter()
            self.training.gather_parameters()
            self._saved_step = self.step
            state = checkpoints.state_of(self.training.encoders, self.training.optimizer)
            self._after_save(self.saver.begin(path, self._meta(), state, started), callbacks, last)
        if last:
            self._after_save(self.saver.wait(), callbacks, last)
        return path

    def look_after_save(self, callbacks: Sequence[Callback]) -> None:
        """Go on with the checkpoint that is being written, without waiting for it; between any two steps."""
        self._after_save(self.saver.poll(), callbacks)

    def settle(self, callbacks: Sequence[Callback]) -> None:
        """Wait for the checkpoint that is being written."""
        self._after_save(self.saver.wait(), callbacks)

    def _after_save(self, outcome: Outcome | None, callbacks: Sequence[Callback], last: bool = False) -> None:
        if outcome is None:
            return
        if not outcome.problem:
            for callback in callbacks:
                callback.on_save(outcome.path, outcome.stalled, outcome.wrote)
            return
        self._saved_step = None
        if last or self.recipe.checkpoint.on_failure == "stop":
            raise UserError(outcome.problem)
        for callback in callbacks:
            callback.on_event("save failed", f"{outcome.problem}; training goes on")

    def _prune(self, folder: Path) -> None:
        apply_retention(folder, self.recipe.checkpoint.keep_last, self.recipe.checkpoint.keep_every_tokens)

    def _meta(self) -> CheckpointMeta:
        pack = self.last_pack if self.recipe.checkpoint.replay != "none" else None
        return fresh_meta(self.recipe, self.phase).model_copy(
            update={
                "step": self.step,
                "phase_tokens": self.phase_tokens,
                "total_tokens": self.tokens_before + self.phase_tokens,
                "loader": self.loader.state_dict(),
                "history": self._history,
                "finished": self.phase_tokens >= self.phase.tokens,
                "tokenizer_fingerprint": self._fingerprint,
                "origin": self._origin,
                "recent_losses": self.guard.rule.losses,
                "replay": None if pack is None else record(self.training.encoders, pack),
            }
        )

    def score_held_out(self, moment: str, callbacks: Sequence[Callback]) -> None:
        """Score the held-out text by language, tell the hooks, and keep what was ``before`` and ``after`` the phase
        beside the checkpoints."""
        if self._held_out is None:
            return
        self.training.gather_parameters()
        scores = self._held_out.score(self.training.encoders)
        values = {language: score.bits_per_byte for language, score in scores.items()}
        for callback in callbacks:
            callback.on_scores(moment, values, self.tokens_before + self.phase_tokens)
        if self.runtime.is_main and moment in ("before", "after"):
            known = json.loads(self.folder.scores.read_text()) if self.folder.scores.exists() else {}
            self.folder.say(self.folder.scores, known | {moment: values})

    def close(self) -> None:
        """Stop the loader's workers, and a checkpoint's writer if an error comes before its end."""
        if not self.finished:
            self.saver.cancel()
            self.loader.close()


def fresh_meta(recipe: Recipe, phase: Phase) -> CheckpointMeta:
    """The state at the start of a phase that begins from nothing."""
    return CheckpointMeta(
        model=recipe.model,
        rope_theta=phase.rope_theta,
        rope_theta_local=phase.theta_local,
        max_length=phase.max_length,
        phase=phase.name,
        recipe=recipe.to_dict(),
    )
