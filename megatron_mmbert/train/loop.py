"""The training loop of one phase. Short on purpose: what is not essential is a callback."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.optim.schedule import lr_at
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.resilience import progress_marker
from megatron_mmbert.resilience.progress_marker import Stage
from megatron_mmbert.train.anomaly_guard import place_in_data
from megatron_mmbert.train.callbacks import Callback, CallbackList
from megatron_mmbert.train.counters import Interval
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.train.step import training_step
from megatron_mmbert.train.trainer import Trainer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.fault_points import Moment, fault_point


def train(trainer: Trainer, callbacks: Sequence[Callback], should_stop: Callable[[], bool] = lambda: False) -> Path:
    """Train the phase to its end, or until ``should_stop``; returns the last checkpoint.

    Everything a step does is a function of (recipe, seed, tokens seen, step), so a run that was stopped and resumed
    takes exactly the steps of one that was not.

    Args:
        should_stop: asked between steps; the same answer on every rank.

    Raises:
        UserError: the phase's tokens are seen and no step was taken.
    """
    counters, everyone = trainer.counters, CallbackList(callbacks)
    checkpoint_interval = Interval(trainer.recipe.checkpoint.every_tokens, counters.phase_tokens)
    everyone.on_train_begin(counters)
    while not trainer.is_complete and not should_stop():
        metrics = take_step(trainer)
        handle_anomalies(trainer, everyone)
        counters.step, counters.phase_tokens = metrics.step, metrics.phase_tokens
        everyone.on_step(metrics)
        trainer.checkpoints.poll_save(everyone)
        if trainer.is_complete:
            break
        everyone.on_step_end(counters)
        if checkpoint_interval.is_due(counters.phase_tokens):
            progress_marker.mark(Stage.CHECKPOINT)
            trainer.save(everyone)
    if trainer.is_complete:
        check_trained(trainer)
    progress_marker.mark(Stage.LAST_CHECKPOINT)
    checkpoint = trainer.save(everyone, last=True)
    if trainer.is_complete:
        trainer.checkpoints.verify(checkpoint)
        everyone.on_phase_end(counters)
    fault_point(Moment.TRAIN_END, trainer)
    return checkpoint


def check_trained(trainer: Trainer) -> None:
    """Refuse to call a phase complete that took no step: all were skipped, here and before it was resumed.

    Raises:
        UserError: so it is.
    """
    guard = trainer.guard
    if guard.left_out and not guard.taken and not trainer.start.meta.recent_losses:
        raise UserError(
            f"phase {trainer.phase.name!r}: every step was skipped ({guard.left_out} of {guard.left_out}; "
            f"{guard.decision.text}), so it is not complete; see the losses in {trainer.folder.metrics}, and lower "
            "lr or start from other weights"
        )


def take_step(trainer: Trainer) -> StepMetrics:
    """Take one optimizer step; returns its numbers. The counters advance later, when anomalies have been handled."""
    phase, loader, schedules, counters = trainer.phase, trainer.loader, trainer.schedules, trainer.counters
    started = time.perf_counter()
    progress_marker.mark(Stage.DATA, counters.step + 1)
    fault_point(Moment.LOADING, counters.step + 1)
    lr = lr_at(counters.phase_tokens, schedules.lr)
    micro_batches = loader.next_step()
    waited = time.perf_counter() - started
    fault_point(Moment.LOADED, micro_batches)
    accept = partial(trainer.guard.accept, step=counters.step + 1, training=trainer.training)
    weight_decay, seed = schedules.weight_decay, trainer.recipe.seed
    loss = training_step(trainer.training, micro_batches, lr, phase, weight_decay, seed, accept)
    fault_point(Moment.STEP_END)
    trainer.checkpoints.pack_to_record = micro_batches[0]
    return StepMetrics(
        phase=phase.name,
        step=counters.step + 1,
        phase_tokens=loader.state.tokens,
        goal_tokens=phase.tokens,
        total_tokens=counters.tokens_before + loader.state.tokens,
        loss=loss,
        lr=lr,
        mask_ratio=phase.mask_ratio.at(counters.phase_tokens / phase.tokens),
        temperature=loader.mixture.temperature_at(counters.phase_tokens),
        step_tokens=loader.state.tokens - counters.phase_tokens,
        seconds=time.perf_counter() - started,
        data_seconds=waited,
        mfu=_flops(trainer, micro_batches) / (time.perf_counter() - started) / trainer.peak_flops,
        skipped=trainer.guard.decision.action != "step",
    )


def handle_anomalies(trainer: Trainer, callbacks: Callback) -> None:
    """Report a bad step and a straggler; rewind or end the run where the recipe says so."""
    decision = trainer.guard.decision
    straggler = trainer.stragglers.add_step(trainer.training.gradients.seconds())
    place = place_in_data(trainer.folder.recipe, trainer.phase.name, trainer.counters.phase_tokens)
    if decision.kind:
        callbacks.on_event(decision.kind, f"{decision.text}; {decision.action}; {place}")
    if straggler:
        callbacks.on_event("straggler", straggler)
    if decision.action == "stop":
        trainer.checkpoints.wait_for_save(callbacks)
        raise UserError(f"{decision.text}; {place}; fix the cause, or change the recipe's stability section")
    if decision.action == "rewind":
        trainer.rewind(callbacks)


def _flops(trainer: Trainer, micro_batches: Sequence[PackedBatch]) -> float:
    """Return the FLOPs of this rank's device in the step; the model-parallel ranks share the work on a micro batch."""
    model = trainer.recipe.model
    total = sum(training_flops(model, each.cu_seqlens.diff().tolist(), len(each.label_K)) for each in micro_batches)
    return total / (current().tp_size * current().pp_size)
