"""The callback of the training loop: named moments that the loop calls on rank 0, and knows nothing more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_mmbert.train.metrics import StepMetrics


class Callback:
    """Called by the loop on rank 0; each method does nothing unless a subclass says otherwise."""

    def on_step(self, progress: StepMetrics) -> None:
        """After each optimizer step."""

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        """After held-out text was scored, by language."""

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        """After a checkpoint was committed: seconds that training stood still for it, and from its begin to its end."""

    def on_event(self, kind: str, text: str) -> None:
        """Something out of the ordinary: a skipped step, a rewind, a slow rank."""

    def close(self) -> None:
        """At the end, also after an error."""
