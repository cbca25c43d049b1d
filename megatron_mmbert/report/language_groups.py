"""Groups of languages and the measurements that stand side by side: rows and columns of all tables.

Both are derived from what the phases did, never from names: a language belongs to the first stage of the run that
trains it, and to those of the stage's alternatives that do.
"""

from __future__ import annotations

from dataclasses import dataclass

from megatron_mmbert.report.run_reader import PhaseRun, Run, Scores

_SAME = 5e-4  # below this, two measurements print alike


@dataclass(frozen=True)
class Group:
    """Languages with one history, those with most text first; ``phases`` is empty where no phase has trained them."""

    label: str
    phases: tuple[str, ...]
    languages: tuple[str, ...]


@dataclass(frozen=True)
class Column:
    """A measurement of all languages: ``moment`` is before, after or nothing (the merged model)."""

    moment: str
    subject: str
    scores: Scores

    @property
    def title(self) -> str:
        return f"{self.moment} {self.subject}".strip()


def language_groups(run: Run) -> list[Group]:
    """Return all languages that the run trains or scores, each in one group, in the order they come into the run."""
    stages = run.stages()
    members: dict[tuple[int, tuple[str, ...]], list[str]] = {}
    for language in _languages(run):
        members.setdefault(_history(stages, language), []).append(language)
    sizes = sizes_of(run)
    return [
        Group(
            _label(stages, *key),
            key[1],
            tuple(sorted(languages, key=lambda language: (-sizes.get(language, 0.0), language))),
        )
        for key, languages in sorted(members.items(), key=lambda item: (item[0][0], -len(item[0][1]), item[0][1]))
    ]


def columns(run: Run) -> list[Column]:
    """Return the measurements in the order of the run; before a phase only what its origin does not say."""
    found = []
    for phase in run.phases:
        origin = run.phase(phase.origin)
        if phase.before and not (origin and _alike(phase.before, origin.after)):
            found.append(Column("before", phase.name, phase.before))
        if phase.after:
            found.append(Column("after", phase.name, phase.after))
    if run.merged:
        found.append(Column("", "merged", run.merged))
    return found


def before_of(run: Run, phase: PhaseRun) -> Scores:
    """Return scores at the phase's start: its own measurement, else that after the phase it started from."""
    origin = run.phase(phase.origin)
    return phase.before or (origin.after if origin else {})


def sizes_of(run: Run) -> Scores:
    """Return the tokens of text of each language that a phase trains."""
    found: Scores = {}
    for phase in run.phases:
        for language, size in phase.sizes.items():
            found[language] = max(size, found.get(language, 0.0))
    return found


def mean(scores: Scores, languages: tuple[str, ...] | list[str]) -> float | None:
    """Return the mean over the languages; None if one of them has no score, as a mean over others would not compare."""
    if not languages or any(language not in scores for language in languages):
        return None
    return sum(scores[language] for language in languages) / len(languages)


def scored(group_languages: tuple[str, ...], shown: list[Column]) -> list[str]:
    """Return the languages that have a score in every column that scores any of them, so that columns compare."""
    useful = [column.scores for column in shown if any(language in column.scores for language in group_languages)]
    return [language for language in group_languages if useful and all(language in scores for scores in useful)]


def _languages(run: Run) -> list[str]:
    tables = [table for phase in run.phases for table in (phase.shares, phase.before, phase.after)] + [run.merged]
    return sorted({language for table in tables for language in table})


def _history(stages: list[list[PhaseRun]], language: str) -> tuple[int, tuple[str, ...]]:
    for number, stage in enumerate(stages):
        seen_by = tuple(phase.name for phase in stage if language in phase.shares)
        if seen_by:
            return number, seen_by
    return len(stages), ()


def _label(stages: list[list[PhaseRun]], number: int, phases: tuple[str, ...]) -> str:
    if not phases:
        return "not trained"
    if number == 0:
        return f"from {' and '.join(phases)} on"
    return f"{'only in' if len(phases) < len(stages[number]) else 'added in'} {', '.join(phases)}"


def _alike(first: Scores, second: Scores) -> bool:
    return first.keys() == second.keys() and all(abs(value - second[name]) < _SAME for name, value in first.items())
