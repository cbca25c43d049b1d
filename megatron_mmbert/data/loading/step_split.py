"""The sharing out of a step's packs over data-parallel ranks, and over the micro batches of each rank.

Packs are the unit of the data's order, micro batches the unit of work: a micro batch is several packs, laid end to end.
What does not divide is filled up with empty packs, which hold padding alone and score nothing. So the packs of a step,
and with them its loss and gradient, are the same for any number of ranks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StepPacks:
    """The packs of one step.

    Attributes:
        total: of all data-parallel ranks together, without empty ones.
        micro_batches: packs in each micro batch of one rank, with empty ones; the same on every rank.
    """

    total: int
    micro_batches: tuple[int, ...]

    @property
    def per_rank(self) -> int:
        """Packs that each rank takes, empty ones included."""
        return sum(self.micro_batches)


@dataclass(frozen=True)
class StepSplit:
    """The rule by which steps are split.

    Attributes:
        ranks: data-parallel ranks.
        max_packs: the most packs of one micro batch.
        pipeline: pipeline ranks; more than one need micro batches of one size, and at least as many as they are.
        group: micro batches of a rank come in multiples of it (an interleaved pipeline).
    """

    ranks: int = 1
    max_packs: int = 1
    pipeline: int = 1
    group: int = 1

    def split(self, packs: int) -> StepPacks:
        """Return how a step of ``packs`` packs is split."""
        each = -(-packs // self.ranks)
        return StepPacks(packs, self._equal(each) if self.pipeline > 1 else self._balanced(each))

    def efficiency(self, packs: int) -> float:
        """Return the share of the ranks' packs that is not empty, in a step of ``packs``."""
        return packs / (self.ranks * self.split(packs).per_rank)

    def _balanced(self, each: int) -> tuple[int, ...]:
        """Return as few micro batches as there can be, of nearly one size."""
        count = -(-each // self.max_packs)
        size, larger = divmod(each, count)
        return (size + 1,) * larger + (size,) * (count - larger)

    def _equal(self, each: int) -> tuple[int, ...]:
        """Return micro batches of one size, the largest that leaves work for every pipeline rank and no pack over."""
        each = -(-each // self.group) * self.group
        largest = min(self.max_packs, max(1, each // self.pipeline))
        size = next(size for size in range(largest, 0, -1) if each % size == 0 and (each // size) % self.group == 0)
        return (size,) * (each // size)
