"""The points where a phase resumes in the data, computed from the phases before it.

What a phase has read of each dataset follows from its settings and the block it came to, so a chain of phases is a few
integers each, however many datasets there are. Every phase is replayed in numbers only: no text is read, no sample
drawn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from megatron_mmbert.data.sampling.epoch_order.position import EpochPosition
from megatron_mmbert.data.sampling.epoch_order.stripes import divide_into_stripes
from megatron_mmbert.data.sampling.settings import DataPhase, MixtureError, ResumePoint, TokenSource

ResumePoints = dict[tuple[str, str], ResumePoint]


@dataclass(frozen=True)
class TrainedPhase:
    """A phase as it was trained.

    Attributes:
        blocks: blocks of its order that were begun.
        fingerprint: of its order; None where that is taken to be what the settings say.
    """

    phase: DataPhase
    blocks: int
    fingerprint: str | None = None


def blocks_begun(state: Mapping[str, Any]) -> int:
    """Return how many blocks a loader in ``state`` (``PackLoader.state_dict``) has taken packs from."""
    return int(state["block"]) + (int(state["pack"]) > 0)


def nominal_blocks(phase: DataPhase) -> int:
    """Return how many blocks hold the phase's tokens, if each has as many as is expected of it."""
    return -(-phase.tokens // phase.tokens_per_block)


def resume_points_after(
    source: TokenSource, trained: Iterable[TrainedPhase], warn: Callable[[str], None] = print
) -> ResumePoints:
    """Return the epoch position of each dataset after the phases ``trained``, in their order.

    The block that a phase ended in counts as read, so nothing of it is given again before the dataset's epoch is over;
    what was left of it is passed over in that epoch. If the data or the settings are no longer those a phase was
    trained with, its last position is not known: the datasets then begin anew, and ``warn`` is told.

    Raises:
        UserError: the data cannot be read. It must not pass for other data: ranks that can read it take another order.
    """
    points: ResumePoints = {}
    for each in trained:
        phase = replace(each.phase, resume_points=points)
        try:
            position = EpochPosition(divide_into_stripes(source, phase)[0], phase)
        except MixtureError as error:
            return _unknown(phase, str(error), warn)
        if each.fingerprint is not None and position.fingerprint() != each.fingerprint:
            return _unknown(phase, "its data or settings are not those it was trained with", warn)
        points |= position.resume_points_at(each.blocks)
    return points


def _unknown(phase: DataPhase, reason: str, warn: Callable[[str], None]) -> ResumePoints:
    warn(f"what phase {phase.name!r} read is not known ({reason}): all languages begin a new epoch, so text may repeat")
    return {}
