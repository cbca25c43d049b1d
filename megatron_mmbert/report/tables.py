"""The tables of a run's held-out bits per byte: by group of languages, and by language for the last group."""

from __future__ import annotations

from typing import Any

from megatron_mmbert.report.findings import findings
from megatron_mmbert.report.language_groups import Column, Group, columns, language_groups, mean, scored
from megatron_mmbert.report.run_reader import Run
from megatron_mmbert.utils.text_table import table

NO_VALUE = "–"


def group_table(run: Run) -> str:
    """Return a table: a row per group of languages, a column per measurement of the run, the group's mean in it."""
    shown = columns(run)
    header = ["languages", "number", *(_two_lines(column) for column in shown)]
    rows = [_group_row(group.label, group.languages, shown) for group in language_groups(run)]
    everything = tuple(language for group in language_groups(run) for language in group.languages)
    if len(rows) > 1:
        rows.append(_group_row("all", everything, shown))
    return table(header, rows, [False, *[True] * (len(header) - 1)])


def last_group(run: Run) -> Group | None:
    """Return the last languages that came into the run and have scores; None if no language was trained and scored."""
    shown = columns(run)
    groups = [group for group in language_groups(run) if group.phases and scored(group.languages, shown)]
    return groups[-1] if groups else None


def language_table(run: Run, group: Group, limit: int | None = None) -> str:
    """Return a table, a row per language of ``group``: its scores before its stage, of variants and merge.

    Args:
        most: the largest number of rows; the others are counted in a last line.
    """
    shown = last_columns(run, group)
    header = ["language", *(_two_lines(column) for column in shown), "best"]
    languages = scored(group.languages, shown)
    rows = []
    for language in languages[:limit]:
        values = [column.scores.get(language) for column in shown]
        ends = {c.subject: c.scores[language] for c in shown if c.moment != "before" and language in c.scores}
        rows.append([language, *map(_number, values), min(ends, key=lambda name: ends[name]) if ends else ""])
    text = table(header, rows, [False, *[True] * len(shown), False])
    left = len(languages) - len(rows)
    return f"{text}\n... and {left} more, in summary.json" if left else text


def last_columns(run: Run, group: Group) -> list[Column]:
    """Return the columns for ``group``: the start of the group's stage, its phases' ends, and what came later."""
    stages = run.stages()
    number = next(n for n, stage in enumerate(stages) if group.phases[0] in [phase.name for phase in stage])
    stage = [phase.name for phase in stages[number]]
    origins = {phase.origin for phase in stages[number]}
    later = {phase.name for stage_after in stages[number + 1 :] for phase in stage_after}
    return [
        column
        for column in columns(run)
        if column.subject in later
        or column.subject in ("merged", *stage)
        or (column.subject in origins and column.moment == "after")
    ]


def tables_text(run: Run, max_languages: int | None = 40) -> str:
    """Return all that is printed at the end of a run."""
    if not columns(run):
        return "no held-out scores: name held-out stores in the recipe's evaluation.stores to have them"
    parts = ["held-out bits per byte, mean over languages (lower is better)", "", group_table(run)]
    group = last_group(run)
    if group is not None and len(language_groups(run)) > 1:
        parts += ["", f"languages {group.label}", "", language_table(run, group, max_languages)]
    found = findings(run)
    if found:
        parts += ["", *(f"- {finding.text}" for finding in found)]
    return "\n".join(parts)


def summary(run: Run) -> dict[str, Any]:
    """Return the numbers of the tables for programs; the keys are those of ``summary.json``."""
    shown = columns(run)
    return {
        "run": run.name,
        "phases": [
            {
                "name": phase.name,
                "from": phase.origin,
                "steps": phase.steps,
                "tokens": int(phase.curves["phase_tokens"][-1]) if phase.steps else 0,
                "goal_tokens": int(phase.goal_tokens),
                "languages": len(phase.shares),
                "last_loss": float(phase.curves["loss"][-1]) if phase.steps else None,
            }
            for phase in run.phases
        ],
        "groups": [
            {
                "label": group.label,
                "phases": list(group.phases),
                "languages": list(group.languages),
                "mean_bits_per_byte": {c.title: mean(c.scores, scored(group.languages, shown)) for c in shown},
            }
            for group in language_groups(run)
        ],
        "bits_per_byte": {column.title: column.scores for column in shown},
        "verdicts": [vars(finding) for finding in findings(run)],
    }


def _group_row(label: str, languages: tuple[str, ...], shown: list[Column]) -> list[str]:
    with_scores = scored(languages, shown)
    count = str(len(languages)) if len(with_scores) == len(languages) else f"{len(with_scores)} of {len(languages)}"
    return [label, count, *(_number(mean(column.scores, with_scores)) for column in shown)]


def _two_lines(column: Column) -> str:
    return f"{column.moment}\n{column.subject}" if column.moment else column.subject


def _number(value: float | None) -> str:
    return NO_VALUE if value is None else f"{value:.3f}"
