"""Bits per byte of held-out text before and after a phase, and every so many tokens of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.parallel.runtime import current
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.counters import Counters, Interval
from megatron_mmbert.train.step import Training


class LanguageScore(Protocol):
    """The score of one language."""

    @property
    def bits_per_byte(self) -> float: ...


class HeldOutText(Protocol):
    """Held-out text that scores a model; :class:`megatron_mmbert.eval.bits_per_byte.HeldOut` is one."""

    def score(self, model: Sequence[Encoder]) -> Mapping[str, LanguageScore]: ...


class HeldOutScoring(Callback):
    """Score the model on held-out text and pass the result to the other callbacks; runs on every rank.

    The first and the last score of a phase are also kept beside its checkpoints, in ``bits_per_byte.json``.

    Args:
        every_tokens: how often the model is scored during the phase; None: only before and after it.
        others: the callbacks whose :meth:`~Callback.on_scores` is called.
    """

    def __init__(
        self, text: HeldOutText, training: Training, every_tokens: int | None, folder: PhaseFolder, others: Callback
    ) -> None:
        self._text, self._training, self._folder, self._others = text, training, folder, others
        self._every_tokens = every_tokens
        self._interval = Interval(every_tokens, 0)

    def on_train_begin(self, counters: Counters) -> None:
        self._interval = Interval(self._every_tokens, counters.phase_tokens)
        if counters.step == 0:
            self._score("before", counters)

    def on_step_end(self, counters: Counters) -> None:
        # Before a checkpoint: the steps that it contains have then been scored.
        if self._interval.is_due(counters.phase_tokens):
            self._score(f"at {counters.phase_tokens:,} tokens", counters)

    def on_phase_end(self, counters: Counters) -> None:
        self._score("after", counters)

    def _score(self, moment: str, counters: Counters) -> None:
        self._training.gather_parameters()
        scores = self._text.score(self._training.encoders)
        values = {language: score.bits_per_byte for language, score in scores.items()}
        self._others.on_scores(moment, values, counters.total_tokens)
        if current().is_main and moment in ("before", "after"):
            self._folder.write(self._folder.scores, self._folder.read(self._folder.scores) | {moment: values})
