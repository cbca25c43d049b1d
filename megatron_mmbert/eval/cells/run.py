"""Running of a plan: what is not there yet is computed, cell by cell, within a budget of time."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from megatron_mmbert.eval.cells.plan import AnySubject, Work
from megatron_mmbert.eval.cells.progress import Progress
from megatron_mmbert.eval.cells.store import Store
from megatron_mmbert.eval.probes.heads import HEADS
from megatron_mmbert.eval.probes.subjects import ModelSubject, Unable


@dataclass
class Done:
    """The work that a run has done.

    Attributes:
        computed: cells that it filled.
        resumed: cells of its share that were there.
        over_budget: cells left for want of time.
        unable: why a subject gives no score in a task, by (subject, task).
    """

    computed: int = 0
    resumed: int = 0
    over_budget: int = 0
    unable: dict[tuple[str, str], str] = field(default_factory=dict)


def run(
    works: Sequence[Work], store: Store, budget: float | None, say: Callable[[str], None] = lambda line: None
) -> Done:
    """Fill the cells of ``works``; those that are there are kept.

    Args:
        budget: seconds; work that would end later, by what such work has taken so far, is left.
        say: called with a line of progress now and then.
    """
    done, start = Done(), time.monotonic()
    open_works = [work for work in works if _missing(work, store)]
    done.resumed = sum(len(work.cells) for work in works) - sum(len(_missing(work, store)) for work in open_works)
    progress, rates = Progress([work.size for work in open_works], say), _Rates()
    loaded: AnySubject | None = None
    for work in open_works:
        missing = _missing(work, store)  # anew: another shard may have filled them
        if budget is not None and time.monotonic() - start + rates.forecast(work) > budget:
            done.over_budget += len(missing)
            progress.skip(work.size)
            continue
        if isinstance(loaded, ModelSubject) and loaded is not work.subject:
            loaded.release()
        loaded, began = work.subject, time.monotonic()
        try:
            done.computed += _compute(work, missing, store)
        except Unable as error:
            done.unable.setdefault((work.subject.label, work.data.task.name), str(error))
        rates.add(work, time.monotonic() - began)
        progress.done(work.size, f"{work.data.task.name}, {work.unit.setting}, {work.subject.label}")
    return done


class _Rates:
    """Seconds an example of the same task and kind of subject has taken; of the slowest kind where it has none."""

    def __init__(self) -> None:
        self._seconds: dict[tuple[str, str], float] = defaultdict(float)
        self._sizes: dict[tuple[str, str], int] = defaultdict(int)

    def add(self, work: Work, seconds: float) -> None:
        key = (work.data.task.name, work.subject.kind)
        self._seconds[key] += seconds
        self._sizes[key] += work.size

    def forecast(self, work: Work) -> float:
        """Return the seconds that ``work`` will take; 0 before anything is known."""
        key = (work.data.task.name, work.subject.kind)
        rates = {each: self._seconds[each] / max(1, self._sizes[each]) for each in self._seconds}
        return work.size * rates.get(key, max(rates.values(), default=0.0))


def _missing(work: Work, store: Store) -> tuple[str, ...]:
    return tuple(cell.language for cell in work.cells if store.read(cell) is None)


def _compute(work: Work, missing: tuple[str, ...], store: Store) -> int:
    """Fill the missing cells of ``work``; returns how many."""
    if not missing:
        return 0
    by_language = {cell.language: cell for cell in work.cells}
    head, count = HEADS[work.data.task.head], 0
    for language, outcome in head.outcomes(replace(work.unit, languages=missing), work.subject, work.data):
        store.write(by_language[language], outcome)
        count += 1
    return count
