"""The training loop of one phase. Short on purpose: what is not essential is a hook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.optim.schedule import batch_at, lr_at
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.train.anomaly_guard import place_in_data
from megatron_mmbert.train.callbacks import Callback
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.train.step import training_step
from megatron_mmbert.train.trainer import Trainer
from megatron_mmbert.utils.errors import UserError


def train(trainer: Trainer, callbacks: Sequence[Callback], should_stop: Callable[[], bool] = lambda: False) -> Path:
    """Train the session's phase to its end, or until ``should_stop`` (asked between steps, the same answer on every
    rank); returns the last checkpoint.

    Everything a step does is a function of (recipe, seed, tokens seen, step), so a run that was stopped and resumed
    takes exactly the steps of one that was not.
    """
    phase, loader = trainer.phase, trainer.loader
    if trainer.step == 0:
        trainer.score_held_out("before", callbacks)
    to_save, to_score = (_Every(tokens, trainer.phase_tokens) for tokens in _rhythms(trainer.recipe))
    while trainer.phase_tokens < phase.tokens and not should_stop():
        started = time.perf_counter()
        progress_marker.at("the data", trainer.step + 1)
        lr = lr_at(trainer.phase_tokens, trainer.lr_schedule)
        packs = loader.next_packs(batch_at(trainer.phase_tokens, trainer.batch_ramp) // trainer.runtime.dp_size)
        waited = time.perf_counter() - started
        accept = partial(trainer.guard.accept, step=trainer.step + 1, training=trainer.training)
        loss = training_step(trainer.training, packs, lr, phase, trainer.weight_decay, trainer.recipe.seed, accept)
        seen = loader.state.tokens - trainer.phase_tokens
        progress = StepMetrics(
            phase=phase.name,
            step=trainer.step + 1,
            phase_tokens=loader.state.tokens,
            goal_tokens=phase.tokens,
            total_tokens=trainer.tokens_before + loader.state.tokens,
            loss=loss,
            lr=lr,
            mask_ratio=phase.mask_ratio.at(trainer.phase_tokens / phase.tokens),
            temperature=loader.mixture.temperature_at(trainer.phase_tokens),
            step_tokens=seen,
            seconds=time.perf_counter() - started,
            data_seconds=waited,
            mfu=_flops(trainer, packs) / (time.perf_counter() - started) / trainer.peak_flops,
            skipped=trainer.guard.verdict.action != "step",
        )
        _act_on_numbers(trainer, callbacks)
        trainer.step, trainer.phase_tokens, trainer.last_pack = progress.step, progress.phase_tokens, packs[0]
        for callback in callbacks:
            callback.on_step(progress)
        trainer.look_after_save(callbacks)
        if trainer.phase_tokens >= phase.tokens:
            break
        if to_score.due(trainer.phase_tokens):
            # Before saving: what a checkpoint has behind it has been scored.
            trainer.score_held_out(f"at {trainer.phase_tokens:,} tokens", callbacks)
        if to_save.due(trainer.phase_tokens):
            progress_marker.at("a checkpoint")
            trainer.save(callbacks)
    if trainer.phase_tokens >= phase.tokens:
        trainer.score_held_out("after", callbacks)
    progress_marker.at("the last checkpoint")
    return trainer.save(callbacks, last=True)


class _Every:
    """Says once for every ``tokens`` tokens of a phase that it is time; never where ``tokens`` is None."""

    def __init__(self, tokens: int | None, phase_tokens: int) -> None:
        self._tokens, self._last = tokens, phase_tokens // tokens if tokens else 0

    def due(self, phase_tokens: int) -> bool:
        before, self._last = self._last, phase_tokens // self._tokens if self._tokens else 0
        return self._last > before


def _rhythms(recipe: Recipe) -> tuple[int | None, int | None]:
    return recipe.checkpoint.every_tokens, recipe.evaluation.every_tokens


def _act_on_numbers(trainer: Trainer, callbacks: Sequence[Callback]) -> None:
    """Report a bad step and a slow rank; take the weights back or end the run where the recipe says so."""
    verdict, slow = trainer.guard.verdict, trainer.stragglers.look(trainer.training.watch.seconds())
    place = place_in_data(trainer.folder.recipe, trainer.phase.name, trainer.phase_tokens)
    events = [(verdict.kind, f"{verdict.text}; {verdict.action}; {place}")] if verdict.kind else []
    for kind, text in [*events, *([("slow rank", slow)] if slow else [])]:
        for callback in callbacks:
            callback.on_event(kind, text)
    if verdict.action == "stop":
        trainer.settle(callbacks)
        raise UserError(f"{verdict.text}; {place}; mend the cause, or change the recipe's numbers section")
    if verdict.action == "rewind":
        trainer.rewind(callbacks)


def _flops(trainer: Trainer, packs: Sequence[PackedBatch]) -> float:
    """What this rank's devices computed in the step; the model-parallel ranks share the work on a pack."""
    model = trainer.recipe.model
    total = sum(training_flops(model, pack.cu_seqlens.diff().tolist(), len(pack.label_K)) for pack in packs)
    return total / (trainer.runtime.tp_size * trainer.runtime.pp_size)
