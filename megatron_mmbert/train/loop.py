"""The training loop of one phase. Short on purpose: what is not essential is a hook."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.values import value_at
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.optim.schedule import batch_at, lr_at
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.train.anomaly_guard import place_in_data
from megatron_mmbert.train.hooks import Hook
from megatron_mmbert.train.metrics import Progress
from megatron_mmbert.train.step import training_step
from megatron_mmbert.train.trainer import Session
from megatron_mmbert.utils.errors import UserError


def train(session: Session, hooks: Sequence[Hook], should_stop: Callable[[], bool] = lambda: False) -> Path:
    """Train the session's phase to its end, or until ``should_stop`` (asked between steps, the same answer on every
    rank); returns the last checkpoint.

    Everything a step does is a function of (recipe, seed, tokens seen, step), so a run that was stopped and resumed
    takes exactly the steps of one that was not.
    """
    phase, loader = session.phase, session.loader
    if session.step == 0:
        session.score_held_out("before", hooks)
    to_save, to_score = (_Every(tokens, session.phase_tokens) for tokens in _rhythms(session.recipe))
    while session.phase_tokens < phase.tokens and not should_stop():
        started = time.perf_counter()
        progress_marker.at("the data", session.step + 1)
        lr = lr_at(session.phase_tokens, session.lr_schedule)
        packs = loader.next_packs(batch_at(session.phase_tokens, session.batch_ramp) // session.runtime.dp_size)
        waited = time.perf_counter() - started
        accept = partial(session.guard.accept, step=session.step + 1, training=session.training)
        loss = training_step(session.training, packs, lr, phase, session.weight_decay, session.recipe.seed, accept)
        seen = loader.state.tokens - session.phase_tokens
        progress = Progress(
            phase=phase.name,
            step=session.step + 1,
            phase_tokens=loader.state.tokens,
            goal_tokens=phase.tokens,
            total_tokens=session.tokens_before + loader.state.tokens,
            loss=loss,
            lr=lr,
            mask_ratio=value_at(phase.mask_ratio, session.phase_tokens / phase.tokens),
            temperature=loader.mixture.temperature_at(session.phase_tokens),
            step_tokens=seen,
            seconds=time.perf_counter() - started,
            data_seconds=waited,
            peak_share=_flops(session, packs) / (time.perf_counter() - started) / session.peak_flops,
            skipped=session.guard.verdict.action != "step",
        )
        _act_on_numbers(session, hooks)
        session.step, session.phase_tokens, session.last_pack = progress.step, progress.phase_tokens, packs[0]
        for hook in hooks:
            hook.on_step(progress)
        session.look_after_save(hooks)
        if session.phase_tokens >= phase.tokens:
            break
        if to_score.due(session.phase_tokens):
            # Before saving: what a checkpoint has behind it has been scored.
            session.score_held_out(f"at {session.phase_tokens:,} tokens", hooks)
        if to_save.due(session.phase_tokens):
            progress_marker.at("a checkpoint")
            session.save(hooks)
    if session.phase_tokens >= phase.tokens:
        session.score_held_out("after", hooks)
    progress_marker.at("the last checkpoint")
    return session.save(hooks, last=True)


class _Every:
    """Says once for every ``tokens`` tokens of a phase that it is time; never where ``tokens`` is None."""

    def __init__(self, tokens: int | None, phase_tokens: int) -> None:
        self._tokens, self._last = tokens, phase_tokens // tokens if tokens else 0

    def due(self, phase_tokens: int) -> bool:
        before, self._last = self._last, phase_tokens // self._tokens if self._tokens else 0
        return self._last > before


def _rhythms(recipe: Recipe) -> tuple[int | None, int | None]:
    return recipe.checkpoint.every_tokens, recipe.evaluation.every_tokens


def _act_on_numbers(session: Session, hooks: Sequence[Hook]) -> None:
    """Report a bad step and a slow rank; take the weights back or end the run where the recipe says so."""
    verdict, slow = session.guard.verdict, session.slow_ranks.look(session.training.watch.seconds())
    place = place_in_data(session.folder.recipe, session.phase.name, session.phase_tokens)
    events = [(verdict.kind, f"{verdict.text}; {verdict.action}; {place}")] if verdict.kind else []
    for kind, text in [*events, *([("slow rank", slow)] if slow else [])]:
        for hook in hooks:
            hook.on_event(kind, text)
    if verdict.action == "stop":
        session.settle(hooks)
        raise UserError(f"{verdict.text}; {place}; mend the cause, or change the recipe's numbers section")
    if verdict.action == "rewind":
        session.rewind(hooks)


def _flops(session: Session, packs: Sequence[PackedBatch]) -> float:
    """What this rank's devices computed in the step; the model-parallel ranks share the work on a pack."""
    model = session.recipe.model
    total = sum(training_flops(model, pack.cu_seqlens.diff().tolist(), len(pack.label_K)) for pack in packs)
    return total / (session.runtime.tp_size * session.runtime.pp_size)
