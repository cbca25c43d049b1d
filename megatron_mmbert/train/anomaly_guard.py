"""Anomaly guard: non-finite values and loss spikes, found between the gradients and the update.

The guard decides after the gradients are summed over ranks and before the weights change, so that a bad step can be
skipped whole. All ranks decide alike: what one sees, all act on. The log names step, rank, parameter, and the position
in the data, which ``tools/inspect_data.py`` shows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_mmbert.config.stability import BadStepAction, StabilityConfig
from megatron_mmbert.model.init import logical_parameters
from megatron_mmbert.parallel.runtime import all_ranks, any_ranks, broadcast_object, current
from megatron_mmbert.resilience.loss_spikes import LossSpikeRule
from megatron_mmbert.train.step import Training

Action = Literal["step"] | BadStepAction


@dataclass(frozen=True)
class Decision:
    """The action for a step: ``step`` takes it; ``text`` says why not, for the log."""

    action: Action
    kind: str = ""
    text: str = ""


class AnomalyGuard:
    """Decides about each step by the recipe's ``stability``.

    Attributes:
        decision: the last one.
        taken, left_out: how many steps this process has taken, and how many the decisions were against.
    """

    def __init__(self, settings: StabilityConfig, losses: Sequence[float] = ()) -> None:
        """
        Args:
            losses: the history of the rule about spikes, of a run that is resumed.
        """
        self.settings = settings
        self.rule = LossSpikeRule(settings.spike_threshold, settings.spike_window, losses)
        self.decision = Decision("step")
        self.taken = self.left_out = 0
        self._in_a_row = 0

    def accept(self, loss: float, step: int, training: Training) -> bool:
        """Return whether ``step`` with this mean loss may update the weights; :attr:`decision` says what else to do."""
        self.decision = self._decide(loss, step, training)
        is_taken = self.decision.action == "step"
        self.taken += is_taken
        self.left_out += not is_taken
        return is_taken

    def _decide(self, loss: float, step: int, training: Training) -> Decision:
        is_own = not training.gradients.finite()
        # One rank keeps the history: the decision is then one, whatever the last bit of a loss is on others.
        spike = current().is_main and math.isfinite(loss) and self.rule.is_spike(loss)
        bad, high = any_ranks([is_own or not math.isfinite(loss), spike])
        if not bad and not high:
            self._in_a_row = 0
            return Decision("step")
        self._in_a_row += 1
        kind = "non-finite" if bad else "spike"
        found = _describe(loss, is_own, training) if bad else broadcast_object(self._describe_spike(loss))
        text, action = f"step {step}: {found}", self.settings.on_non_finite if bad else self.settings.on_spike
        if action == "report":
            return Decision("step", kind, text)
        if self._in_a_row >= self.settings.max_bad_steps:
            return Decision("stop", kind, f"{text}; {self._in_a_row} bad steps in a row")
        return Decision(action, kind, text)

    def _describe_spike(self, loss: float) -> str:
        middle = sorted(self.rule.losses)[len(self.rule.losses) // 2] if self.rule.losses else loss
        return (
            f"loss {loss:.4f} is {self.rule.height(loss):.0f} spreads above {middle:.4f}, the median of the last steps"
        )


def _describe(loss: float, is_own: bool, training: Training) -> str:
    """Return the loss, the parameter whose gradient is not finite, and the ranks on which it was so before the sum."""
    name = first_fault(training)
    found = [(rank, *seen) for rank, seen in enumerate(all_ranks((is_own, name)))]
    ranks = [rank for rank, was_bad, _ in found if was_bad]
    names = [of for _, _, of in found if of is not None]
    where = f"; the gradient of {names[0]} is not finite" if names else ""
    return f"loss is {loss:.4g}{where}" + (f" on rank {', '.join(map(str, ranks))}" if ranks else "")


def first_fault(training: Training) -> str | None:
    """Return the name in the whole model of this rank's first parameter whose gradient is not finite; slow."""
    for encoder in training.encoders:
        for name, parameter in logical_parameters(encoder):
            gradient = getattr(parameter, "main_grad", None)
            if gradient is not None and not math.isfinite(float(gradient.sum())):
                return name
    return None


def place_in_data(recipe: Path, phase: str, tokens: int) -> str:
    """Return the command that shows the samples of the step that began after ``tokens`` tokens of the phase."""
    return f"its samples: tools/inspect_data.py {recipe} --phase {phase} --at-token {tokens}"
