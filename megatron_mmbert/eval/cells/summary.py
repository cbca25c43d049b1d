"""The summary of an evaluation: what the cells that are there say, as ``results.json`` holds it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from megatron_mmbert.eval.cells.plan import Work
from megatron_mmbert.eval.cells.statistics import Counts, Resampler, compare, interval
from megatron_mmbert.eval.cells.store import Store
from megatron_mmbert.eval.probes.subjects import MODEL, NGRAMS, RANDOM, random_label
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.definition import Task

GROUPS = ("resources", "phase", "script", "family")
"""Facts of languages that tables are grouped by."""
Key = tuple[str, str, str]
"""(task, setting, subject)."""


@dataclass
class Scored:
    """The results of one subject in one setting of a task, by language.

    Attributes:
        results: of each language its cells' values, one for each seed.
        wanted: languages of the plan, scored or not.
    """

    task: Task
    setting: str
    plain_setting: str
    subject: str
    kind: str
    results: dict[str, list[dict[str, Any]]]
    wanted: int

    def counts(self) -> dict[str, Counts]:
        """Return numerators and denominators of each language, means over its seeds."""
        return {
            language: Counts(_mean(cells, "numerators"), _mean(cells, "denominators"))
            for language, cells in self.results.items()
        }

    def seeds(self) -> list[float]:
        """Return the mean over languages of each seed that has all of them."""
        by_seed: dict[int, list[float]] = defaultdict(list)
        for cells in self.results.values():
            for cell in cells:
                by_seed[cell["seed"]].append(cell["score"])
        return [float(np.mean(scores)) for scores in by_seed.values() if len(scores) == len(self.results)]

    def guesses(self) -> dict[str, dict[str, Counts]]:
        """Return what answers without a look at the text score, by language: ``chance`` and ``majority``."""
        found: dict[str, dict[str, Counts]] = {"chance": {}, "majority": {}}
        for language, cells in self.results.items():
            sizes = _mean(cells, "denominators")
            if cells[0]["chance"] is not None:
                found["chance"][language] = Counts(sizes * cells[0]["chance"], sizes)
            if cells[0]["majority"] is not None:
                found["majority"][language] = Counts(_mean(cells, "majority"), sizes)
        return {name: counts for name, counts in found.items() if counts}


def summarize(works: Sequence[Work], store: Store) -> dict[str, Any]:
    """Return the numbers of all tables; the keys are those of ``results.json``."""
    scored = read_scored(works, store)
    resampler = Resampler()
    rows = [_row(each, scored, resampler) for each in scored.values() if each.kind == MODEL and each.results]
    cells = [cell for work in works for cell in work.cells]
    there = sum(len(cells) for each in scored.values() for cells in each.results.values())
    return {
        "cells": {"wanted": len(cells), "there": there},
        "rows": rows,
        "models_compared": _between_models(scored, resampler),
        "languages": _language_rows(scored, {work.data.task.name: work.data for work in works}),
    }


def read_scored(works: Iterable[Work], store: Store) -> dict[Key, Scored]:
    """Return what is there of each (task, setting, subject), in the plan's order."""
    found: dict[Key, Scored] = {}
    wanted: dict[Key, set[str]] = defaultdict(set)
    for work in works:
        for cell in work.cells:
            key = (cell.task, cell.setting, cell.subject)
            plain = work.unit.plain_setting
            scored = found.setdefault(key, Scored(work.data.task, cell.setting, plain, cell.subject, cell.kind, {}, 0))
            wanted[key].add(cell.language)
            values = store.read(cell)
            if values is not None:
                scored.results.setdefault(cell.language, []).append(values)
    for key, scored in found.items():
        scored.wanted = len(wanted[key])
    return found


def _row(model: Scored, scored: Mapping[Key, Scored], resampler: Resampler) -> dict[str, Any]:
    """Return a model's row: its score with interval and seeds, and all that stands beside it."""
    counts = model.counts()
    baselines = {**model.guesses(), **_baselines(model, scored)}
    low, high = interval(resampler.mean(counts))
    seeds, lower = model.seeds(), model.task.lower_is_better
    compared = {name: compare(counts, theirs, resampler, lower) for name, theirs in baselines.items()}
    cells = [cell for each in model.results.values() for cell in each]
    return {
        "task": model.task.name,
        "title": model.task.title,
        "metric": model.task.scored_by,
        "lower_is_better": lower,
        "setting": model.setting,
        "model": model.subject,
        "languages": len(counts),
        "languages_wanted": model.wanted,
        "score": float(np.mean([each.score for each in counts.values()])),
        "interval": [low, high],
        "seeds": len({cell["seed"] for cell in cells}),
        "seed_scores": seeds,
        "chosen_on_dev": sorted({cell["about"]["C"] for cell in cells if "C" in cell["about"]}),
        "beside": {
            name: float(np.mean([theirs[each].score for each in counts if each in theirs]))
            for name, theirs in baselines.items()
            if any(each in theirs for each in counts)
        },
        "compared": {name: asdict(each) for name, each in compared.items() if each is not None},
        "published": [each.model_dump() for each in model.task.published],
    }


def _baselines(model: Scored, scored: Mapping[Key, Scored]) -> dict[str, dict[str, Counts]]:
    """Return the counts of the n-grams and of the model's network with random weights, as far as they are there."""
    found = {}
    for other in scored.values():
        if other.task.name != model.task.name or not other.results:
            continue
        if other.kind == NGRAMS and other.setting == model.plain_setting:
            found[NGRAMS] = other.counts()
        if other.kind == RANDOM and other.setting == model.setting and other.subject == random_label(model.subject):
            found[RANDOM] = other.counts()
    return found


def _between_models(scored: Mapping[Key, Scored], resampler: Resampler) -> list[dict[str, Any]]:
    """Return each model after the first compared with the first, in each setting that both have."""
    found = []
    models = [each for each in scored.values() if each.kind == MODEL and each.results]
    for first in (each for each in models if each.subject == models[0].subject):
        for other in models:
            if (other.task.name, other.setting) != (first.task.name, first.setting) or other is first:
                continue
            compared = compare(other.counts(), first.counts(), resampler, first.task.lower_is_better)
            if compared is not None:
                where = {"task": first.task.name, "setting": first.setting}
                found.append({**where, "model": other.subject, "than": first.subject, **asdict(compared)})
    return found


def _language_rows(scored: Mapping[Key, Scored], data: Mapping[str, TaskData]) -> list[dict[str, Any]]:
    """Return a row for each (task, setting, language): facts of the language, and the score of every subject."""
    rows: dict[tuple[str, str, str], dict[str, Any]] = {}
    for each in scored.values():
        if each.kind == NGRAMS:
            continue
        for language, counts in each.counts().items():
            key = (each.task.name, each.setting, language)
            facts = asdict(data[each.task.name].facts(language))
            row = rows.setdefault(key, {"task": key[0], "setting": key[1], "language": language, **facts, "scores": {}})
            row["scores"][each.subject] = counts.score
    for each in scored.values():
        if each.kind == NGRAMS:
            for language, counts in each.counts().items():
                for key, row in rows.items():
                    if key[0] == each.task.name and key[2] == language and key[1].startswith(each.setting):
                        row["scores"][each.subject] = counts.score
    return list(rows.values())


def group_means(rows: Sequence[Mapping[str, Any]], group: str, subjects: Sequence[str]) -> list[dict[str, Any]]:
    """Return, of language rows of one task and setting, the mean score of each subject by a fact of the languages.

    A subject has a mean where it has a score of every language of the group.
    """
    members: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in rows:
        members[row[group]].append(row)
    return [
        {
            "group": name,
            "languages": len(each),
            "scores": {
                subject: float(np.mean([row["scores"][subject] for row in each]))
                for subject in subjects
                if all(subject in row["scores"] for row in each)
            },
        }
        for name, each in sorted(members.items(), key=lambda item: (-len(item[1]), item[0]))
    ]


def _mean(cells: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    return np.mean([cell[key] for cell in cells], axis=0)
