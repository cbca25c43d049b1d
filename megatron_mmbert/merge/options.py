"""What a merge can be asked for, and the checks that need no tensor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from megatron_mmbert.utils.errors import UserError, nearest

Method = Literal["ties", "linear", "slerp", "task_arithmetic", "ema"]
METHODS: tuple[Method, ...] = get_args(Method)
NEEDS_BASE: tuple[Method, ...] = ("ties", "task_arithmetic")
READS: dict[Method, tuple[str, ...]] = {
    "ties": ("density", "weights", "scale"),
    "linear": ("weights",),
    "slerp": ("t",),
    "task_arithmetic": ("weights", "scale"),
    "ema": ("ema_decay",),
}
FLAGS = {"density": "--density", "weights": "--weights", "scale": "--lambda", "t": "--t", "ema_decay": "--ema-decay"}


@dataclass(frozen=True)
class MergeOptions:
    """Numbers of a merge; ``READS`` says which of them a method reads, the rest must stay at their defaults.

    Attributes:
        density: TIES: the share of each task vector's entries that is kept, in (0, 1].
        weights: ties, linear, task_arithmetic: one per model, 0 or more; all 1 when None.
        scale: ties, task_arithmetic: lambda, the factor of the merged task vector.
        t: slerp: 0 gives the first model, 1 the second.
        ema_decay: ema: weight of a checkpoint relative to the next newer one, in (0, 1].
    """

    density: float = 0.5
    weights: tuple[float, ...] | None = None
    scale: float = 1.0
    t: float = 0.5
    ema_decay: float = 0.5

    def weights_for(self, count: int) -> tuple[float, ...]:
        """The weights of ``count`` models."""
        return self.weights if self.weights is not None else (1.0,) * count


def check_options(method: str, model_count: int, has_base: bool, options: MergeOptions) -> Method:
    """Check a request before any file is read.

    Raises:
        UserError: one sentence that names the option, its value and the remedy.
    """
    found = next((known for known in METHODS if known == method), None)
    if found is None:
        raise UserError(f"--method {method}: unknown{nearest(method, METHODS)}; choose one of {', '.join(METHODS)}")
    if found in NEEDS_BASE and not has_base:
        raise UserError(f"--method {method}: works on differences from a base; name it with --base")
    if model_count < 1:
        raise UserError("--models: none given; name one checkpoint or more")
    if found == "slerp" and model_count != 2:
        raise UserError(f"--models: slerp takes exactly 2, not {model_count}; drop some or use --method linear")
    for field, flag in FLAGS.items():
        if field not in READS[found] and getattr(options, field) != getattr(MergeOptions(), field):
            known = ", ".join(FLAGS[name] for name in READS[found])
            raise UserError(f"{flag}: --method {found} does not read it, only {known}; leave it out")
    if not 0 < options.density <= 1:
        raise UserError(f"--density {options.density}: must be above 0 and at most 1, e.g. 0.5")
    if not math.isfinite(options.scale):
        raise UserError(f"--lambda {options.scale}: must be a finite number, e.g. 1.0")
    if not 0 <= options.t <= 1:
        raise UserError(f"--t {options.t}: must be between 0 (the first model) and 1 (the second)")
    if not 0 < options.ema_decay <= 1:
        raise UserError(f"--ema-decay {options.ema_decay}: must be above 0 and at most 1, e.g. 0.5")
    if options.weights is not None:
        _check_weights(model_count, options.weights)
    return found


def _check_weights(model_count: int, weights: tuple[float, ...]) -> None:
    if len(weights) != model_count:
        raise UserError(f"--weights: {len(weights)} given for {model_count} models; give one per model")
    for weight in weights:
        if not (math.isfinite(weight) and weight >= 0):
            raise UserError(f"--weights {weight}: must be finite and 0 or more")
    if sum(weights) == 0:
        raise UserError("--weights: all are 0; give at least one model a positive weight")
