"""Harm done to one rank of a real run: a NaN in its gradients, a spike in its loss, slowness, a hang.

``order["fault"]`` is [kind, rank, step]. At the end of training each rank writes what it holds to ``ENDS/RANK.json``.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_mmbert.model.init import logical_parameters
from megatron_mmbert.parallel import current
from megatron_mmbert.train import loop, step
from megatron_mmbert.train.gradient_monitor import GradientMonitor


def install(order: dict[str, Any]) -> None:
    kind, rank, at = order["fault"]
    _report_end(Path(order["ends"]))
    if kind and os.environ["RANK"] == str(rank):
        FAULTS[kind](at)


def _nan(at: int) -> None:
    """In the gradient of this rank's last feed-forward matrix, after the backward pass of step ``at``."""
    look, steps = GradientMonitor.look, itertools.count(1)

    def spoiled(self: GradientMonitor, chunks: Any) -> None:
        if next(steps) == at:
            matrices = [p for n, p in chunks[-1].module.named_parameters() if n.endswith("linear_fc2.weight")]
            matrices[-1].main_grad[0, 3] = float("nan")
        look(self, chunks)

    GradientMonitor.look = spoiled  # type: ignore[method-assign]


def _spike(at: int) -> None:
    """In the loss that this rank reports of step ``at``; what it differentiates stays as it is."""
    original = step._loss

    def high(loss_sum: Tensor, scored: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        differentiated, count, report = original(loss_sum, scored)
        return differentiated, count, report * torch.tensor([50.0 if _steps[0] == at else 1.0, 1.0])

    step._loss = high


def _slow(at: int) -> None:
    """Every matrix product of this rank takes two milliseconds more, from the start."""
    for name in ("matmul", "mm"):
        setattr(torch, name, _delayed(getattr(torch, name)))


def _delayed(product: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def slow(*arguments: Any, **options: Any) -> Tensor:
        time.sleep(0.002)
        return product(*arguments, **options)

    return slow


def _hang(at: int) -> None:
    """In the forward pass of step ``at``."""
    original = step._forward

    def stuck_in_forward(*arguments: Any) -> Any:
        while _steps[0] == at:
            time.sleep(1)
        return original(*arguments)

    step._forward = stuck_in_forward


def _hang_in_data(at: int) -> None:
    from megatron_mmbert.data.loading.loader import PackLoader

    original, steps = PackLoader.next_packs, itertools.count(1)

    def stuck_in_data(self: PackLoader, count: int) -> Any:
        while next(steps) >= at:
            time.sleep(1)
        return original(self, count)

    PackLoader.next_packs = stuck_in_data  # type: ignore[method-assign]


FAULTS = {"nan": _nan, "spike": _spike, "slow": _slow, "hang": _hang, "hang in data": _hang_in_data}

_steps = [0]  # the step that this rank is in, from 1


def _report_end(folder: Path) -> None:
    train, training_step = loop.train, loop.training_step

    def counted(*arguments: Any) -> float:
        _steps[0] += 1
        return training_step(*arguments)

    def reported(trainer: Any, *arguments: Any) -> Any:
        path = train(trainer, *arguments)
        named = [pair for encoder in trainer.training.encoders for pair in logical_parameters(encoder)]
        here = current()
        held = {
            "place": [here.dp_rank, here.tp_rank, here.pp_rank],
            "steps": trainer.counters.step,
            "tokens": trainer.counters.phase_tokens,
            "weights": {name: hashlib.sha256(p.detach().numpy().tobytes()).hexdigest() for name, p in named},
            "split": [name for name, p in named if getattr(p, "tensor_model_parallel", False)],
        }
        (folder / f"{here.rank}.json").write_text(json.dumps(held))
        return path

    loop.train, loop.training_step = reported, counted
