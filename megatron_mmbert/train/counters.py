"""Step and token counters of a phase, and what is due every so many tokens."""

from __future__ import annotations

from dataclasses import dataclass

from megatron_mmbert.checkpoint.metadata import CheckpointMeta


@dataclass
class Counters:
    """The progress of a phase.

    Attributes:
        step: optimizer steps of the phase.
        phase_tokens: real (non-pad) tokens of the phase, over all ranks.
        tokens_before: real tokens of the phases before it.
    """

    step: int = 0
    phase_tokens: int = 0
    tokens_before: int = 0

    @classmethod
    def of(cls, meta: CheckpointMeta) -> Counters:
        """Return the counters at the state that ``meta`` describes."""
        return cls(meta.step, meta.phase_tokens, meta.total_tokens - meta.phase_tokens)

    @property
    def total_tokens(self) -> int:
        """Real tokens over all phases."""
        return self.tokens_before + self.phase_tokens


class Interval:
    """Something that is due once for every ``tokens`` tokens of a phase; never where ``tokens`` is None."""

    def __init__(self, tokens: int | None, phase_tokens: int) -> None:
        """
        Args:
            phase_tokens: the phase's tokens so far; what was due up to there is done.
        """
        self._tokens, self._last = tokens, phase_tokens // tokens if tokens else 0

    def is_due(self, phase_tokens: int) -> bool:
        """Return whether a multiple of the interval was passed since the last call."""
        before, self._last = self._last, phase_tokens // self._tokens if self._tokens else 0
        return self._last > before
