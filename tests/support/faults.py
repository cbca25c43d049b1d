"""Harm done to one rank of a real run: a NaN in its gradients, a spike in its loss, slowness, a hang.

``order["fault"]`` is [kind, rank, step]. At the end of training each rank writes what it holds to ``ENDS/RANK.json``.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_mmbert.model.init import logical_parameters
from megatron_mmbert.parallel import current
from megatron_mmbert.train.trainer import Trainer
from megatron_mmbert.utils import fault_points
from megatron_mmbert.utils.fault_points import Moment

_step = 0
"""The step that this rank is in, from 1."""


def install(order: dict[str, Any]) -> None:
    kind, rank, at = order["fault"]
    is_hurt = bool(kind) and os.environ["RANK"] == str(rank)
    fault_points.install(Moment.LOADING, partial(_enter_step, at if is_hurt and kind == "hang in data" else None))
    fault_points.install(Moment.TRAIN_END, partial(_report_end, Path(order["ends"])))
    if is_hurt:
        FAULTS[kind](at)


def _enter_step(hangs_at: int | None, step: int) -> None:
    global _step
    _step = step
    if step == hangs_at:
        stuck_in_data()


def stuck_in_data() -> None:
    while True:
        time.sleep(1)


def _nan(at: int) -> None:
    """In the gradient of this rank's last feed-forward matrix, after the backward pass of step ``at``."""

    def spoil(chunks: Sequence[Any]) -> None:
        if _step == at:
            matrices = [p for n, p in chunks[-1].module.named_parameters() if n.endswith("linear_fc2.weight")]
            matrices[-1].main_grad[0, 3] = float("nan")

    fault_points.install(Moment.GRADIENTS, spoil)


def _spike(at: int) -> None:
    """In the loss that this rank reports of step ``at``; what it differentiates stays as it is."""

    def raise_loss(report: Tensor) -> None:
        if _step == at:
            report[0] *= 50.0

    fault_points.install(Moment.LOSS, raise_loss)


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

    def stuck_in_forward() -> None:
        while _step == at:
            time.sleep(1)

    fault_points.install(Moment.FORWARD, stuck_in_forward)


FAULTS: dict[str, Callable[[int], None]] = {
    "nan": _nan,
    "spike": _spike,
    "slow": _slow,
    "hang": _hang,
    "hang in data": lambda at: None,  # see install
}


def _report_end(folder: Path, trainer: Trainer) -> None:
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
