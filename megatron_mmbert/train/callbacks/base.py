"""The callback of the training loop: named moments that the loop calls, and knows nothing more about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from megatron_mmbert.train.counters import Counters
from megatron_mmbert.train.metrics import StepMetrics


class Callback:
    """Base of all callbacks: every method does nothing unless a subclass overrides it.

    Callbacks that write or print are installed on rank 0 alone; one that takes part in exchanges between ranks, as
    :class:`~megatron_mmbert.train.callbacks.held_out.HeldOutScoring`, on every rank.
    """

    def on_train_begin(self, counters: Counters) -> None:
        """Called before the first step that this process takes."""

    def on_step(self, metrics: StepMetrics) -> None:
        """Called with the numbers of each optimizer step."""

    def on_step_end(self, counters: Counters) -> None:
        """Called when a step's numbers are out, before a checkpoint is begun; not after the last step of a phase."""

    def on_phase_end(self, counters: Counters) -> None:
        """Called when the phase is complete, after its last checkpoint has been written and verified."""

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        """Called after held-out text was scored, with bits per byte by language."""

    def on_save_begin(self) -> None:
        """Called before a checkpoint is begun: what tells of the steps up to it is on the disk before it is."""

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        """Called after a checkpoint was committed.

        Args:
            stalled: seconds that training stood still for it.
            wrote: seconds from its begin to its commit.
        """

    def on_event(self, kind: str, text: str) -> None:
        """Called when something out of the ordinary happens: a skipped step, a rewind, a straggler."""

    def close(self) -> None:
        """Called at the end, also after an error."""


class CallbackList(Callback):
    """Several callbacks as one: every moment is passed on to each, in order."""

    def __init__(self, callbacks: Sequence[Callback]) -> None:
        self._callbacks = callbacks

    def on_train_begin(self, counters: Counters) -> None:
        for callback in self._callbacks:
            callback.on_train_begin(counters)

    def on_step(self, metrics: StepMetrics) -> None:
        for callback in self._callbacks:
            callback.on_step(metrics)

    def on_step_end(self, counters: Counters) -> None:
        for callback in self._callbacks:
            callback.on_step_end(counters)

    def on_phase_end(self, counters: Counters) -> None:
        for callback in self._callbacks:
            callback.on_phase_end(counters)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        for callback in self._callbacks:
            callback.on_scores(moment, bits_per_byte, total_tokens)

    def on_save_begin(self) -> None:
        for callback in self._callbacks:
            callback.on_save_begin()

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        for callback in self._callbacks:
            callback.on_save(path, stalled, wrote)

    def on_event(self, kind: str, text: str) -> None:
        for callback in self._callbacks:
            callback.on_event(kind, text)

    def close(self) -> None:
        for callback in self._callbacks:
            callback.close()
