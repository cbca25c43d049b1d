"""Bad numbers, injected into real training: a NaN gradient, a spike; skipped, taken back, ended."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_mmbert.config import load_recipe
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.train.anomaly_guard import AnomalyGuard
from megatron_mmbert.train.callbacks import Callback, MetricsFile
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.step import Training
from megatron_mmbert.train.trainer import Trainer, build_trainer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.fault_points import Moment, installed

Inject = Callable[[int, Trainer], None]


class Events(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, str]] = []

    def on_event(self, kind: str, text: str) -> None:
        self.seen.append((kind, text))


class AcceptsAll(AnomalyGuard):
    def accept(self, loss: float, step: int, training: Training) -> bool:
        return True


def run(
    recipe_path: Path,
    output: Path,
    overrides: Sequence[str],
    inject: Inject = lambda step, trainer: None,
) -> tuple[Trainer, list[tuple[str, str]], list[dict[str, Any]]]:
    """Train phase ``first``; ``inject`` may spoil gradients after the backward pass of a step (from 1)."""
    recipe = load_recipe(recipe_path, ["evaluation.stores=[]", *overrides])
    trainer = build_trainer(recipe, recipe.phase("first"), output)
    events = Events()
    with installed(Moment.GRADIENTS, lambda chunks: inject(trainer.counters.step + 1, trainer)):
        train(trainer, [MetricsFile(trainer.folder.metrics, trainer.counters.step), events])
    rows = [json.loads(line) for line in trainer.folder.metrics.open()]
    return trainer, events.seen, rows


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for e in trainer.training.encoders for name, p in e.named_parameters()}


def nan_at(*at: int) -> Inject:
    def inject(step: int, trainer: Trainer) -> None:
        if step in at:
            dict(trainer.training.encoders[0].named_parameters())["head.dense.weight"].main_grad[3, 4] = float("nan")

    return inject


def test_a_nan_gradient_is_skipped_and_named(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    before: dict[str, torch.Tensor] = {}

    def inject(step: int, trainer: Trainer) -> None:
        nan_at(4)(step, trainer)
        if step == 4:
            before.update(weights(trainer))
        if step == 5:
            now = weights(trainer)
            assert all(torch.equal(now[name], before[name]) for name in before), "step 4 changed nothing"

    trainer, events, rows = run(recipe_path, tmp_path, [], inject)
    assert [kind for kind, _ in events] == ["non-finite"]
    assert "step 4: loss is " in events[0][1]
    assert "the gradient of head.dense.weight is not finite on rank 0; skip" in events[0][1]
    assert [row["step"] for row in rows if row["skipped"]] == [4]
    assert all(torch.isfinite(p).all() for p in weights(trainer).values())
    assert trainer.counters.phase_tokens >= trainer.phase.tokens


def test_without_the_guard_it_would_spoil_the_weights(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["evaluation.stores=[]"])
    trainer = build_trainer(recipe, recipe.phase("first"), tmp_path)
    trainer.guard = AcceptsAll(recipe.stability)
    broken = pytest.raises(UserError, match=r"not saved, tensor .* not finite")
    with installed(Moment.GRADIENTS, lambda chunks: nan_at(1)(1, trainer)), broken:
        train(trainer, [])
    assert not all(torch.isfinite(p).all() for p in weights(trainer).values())


def test_many_in_a_row_end_the_run_with_the_place(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"step 5: .* 3 bad steps in a row; its samples: .*--phase first --at-token \d+"
    ):
        run(recipe_path, tmp_path, ["stability.max_bad_steps=3"], nan_at(*range(3, 20)))


def test_stop_ends_at_the_first(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"step 3: .*head\.dense\.weight"):
        run(recipe_path, tmp_path, ["stability.on_non_finite=stop"], nan_at(3))


def test_rewind_takes_weights_and_optimizer_back_and_goes_on_in_the_data(
    recipe_path: Path, runtime: Runtime, tmp_path: Path
) -> None:
    kept: dict[int, dict[str, torch.Tensor]] = {}
    places: dict[int, int] = {}

    def inject(step: int, trainer: Trainer) -> None:
        kept[step], places[step] = weights(trainer), trainer.loader.state.tokens
        nan_at(9)(step, trainer)

    overrides = ["stability.on_non_finite=rewind", "checkpoint.every_tokens=2500"]
    trainer, events, rows = run(recipe_path, tmp_path, overrides, inject)
    assert events[0][0] == "non-finite" and "rewind" in events[0][1]
    saved = next(
        step
        for step in range(8, 0, -1)
        if rows[step - 1]["phase_tokens"] // 2500 > rows[step - 2]["phase_tokens"] // 2500
    )
    assert saved < 8
    for name, value in kept[10].items():
        assert torch.equal(value, kept[saved + 1][name]), f"{name} is that of the checkpoint behind step {saved}"
    assert places[10] > places[9], "the samples in between are not seen again"
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    state = next(iter(trainer.training.optimizer.stable_adamw.state.values()))
    assert all(torch.isfinite(value).all() for value in state.values() if isinstance(value, torch.Tensor))


@pytest.mark.parametrize("action", ["report", "skip"])
def test_a_spike(action: str, recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    steps: list[int] = []

    def raise_loss(report: torch.Tensor) -> None:
        if steps[-1] == 20:
            report[0] += 100 * report[1]

    overrides = ["phases.first.tokens=14000", f"stability.on_spike={action}", "stability.spike_window=16"]
    with installed(Moment.LOADING, steps.append), installed(Moment.LOSS, raise_loss):
        _, events, rows = run(recipe_path, tmp_path, overrides)
    assert [kind for kind, _ in events] == ["spike"]
    assert "step 20: loss 1" in events[0][1] and "spreads above" in events[0][1]
    assert [row["step"] for row in rows if row["skipped"]] == ([] if action == "report" else [20])


def test_the_history_of_losses_is_in_the_checkpoint(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    recipe, count = load_recipe(recipe_path, ["evaluation.stores=[]"]), itertools.count()
    trainer = build_trainer(recipe, recipe.phase("first"), tmp_path)
    train(trainer, [], lambda: next(count) >= 5)
    again = build_trainer(recipe, recipe.phase("first"), tmp_path)
    assert again.counters.step == 5 and len(again.guard.rule.losses) == 5
    assert again.guard.rule.losses == trainer.guard.rule.losses


def test_a_phase_of_skipped_steps_is_not_complete(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    """Not even a short one, which ends before the guard has had enough."""
    always = nan_at(*range(1, 100))
    settings = ["phases.first.tokens=1200", "phases.first.schedule.warmup_tokens=0", "stability.max_bad_steps=99"]
    with pytest.raises(UserError, match=r"every step was skipped \((\d+) of \1; step \d+: .*not complete"):
        run(recipe_path, tmp_path, settings, always)
    assert not list((tmp_path / "first" / "checkpoints").glob("step-*"))


def test_a_phase_with_one_step_is_complete(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    settings = ["phases.first.tokens=1200", "phases.first.schedule.warmup_tokens=0", "stability.max_bad_steps=99"]
    trainer, _, rows = run(recipe_path, tmp_path, settings, nan_at(*range(2, 100)))
    assert trainer.is_complete and sum(not row["skipped"] for row in rows) == 1


def test_a_rewind_with_only_damaged_checkpoints_ends(recipe_path: Path, runtime: Runtime, tmp_path: Path) -> None:
    """And does not begin again from the start: a month of work may lie in them."""

    def inject(step: int, trainer: Trainer) -> None:
        for shard in trainer.folder.checkpoints.glob("step-*/*.distcp") if step == 9 else ():
            shard.write_bytes(shard.read_bytes()[:-1] + b"?")
        nan_at(9)(step, trainer)

    overrides = ["stability.on_non_finite=rewind", "checkpoint.every_tokens=2500", "checkpoint.asynchronous=false"]
    with pytest.raises(UserError, match="none of 1 checkpoints is valid"):
        run(recipe_path, tmp_path, overrides, inject)
