"""The plan of an evaluation: every piece of work in its order, and the cells that it fills, each with its identity.

A cell's identity is a digest of all that its score depends on: the model's files, the definition of the task, the files
of data, the setting and the seed. A result of another identity is stale and is never taken.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from megatron_mmbert.eval.probes.base import Unit
from megatron_mmbert.eval.probes.heads import HEADS
from megatron_mmbert.eval.probes.subjects import ModelSubject, NGrams
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.definition import Task
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import to_json

FORMAT = "megatron_mmbert evaluation cell, version 1"
_SHAPES_NO_SCORE = {"name", "title", "published", "licence", "languages", "hub"}
AnySubject = NGrams | ModelSubject


@dataclass(frozen=True)
class Cell:
    """A score that is wanted.

    Attributes:
        path: its file, relative to the folder of cells.
    """

    task: str
    setting: str
    language: str
    seed: int
    subject: str
    kind: str
    identity: str
    path: Path


@dataclass(frozen=True)
class Work:
    """A unit of a task for a subject, and its cells, one for each language of the unit.

    Attributes:
        size: examples that are read for it.
    """

    subject: AnySubject
    data: TaskData
    unit: Unit
    cells: tuple[Cell, ...]
    size: int


def plan(
    tasks: Sequence[TaskData], subjects: Sequence[AnySubject], languages: Sequence[str], seeds: int | None
) -> list[Work]:
    """Return all work: the first seed of all tasks before the second, each task for all subjects before the next.

    A run that is cut short has then something to compare.
    All data are read, so that what is wrong with them is said before any work is done.

    Args:
        languages: names to keep; all where there is none.
        seeds: training samples; the tasks' own number where None.

    Raises:
        UserError: data that are not as the task says, or a language that no task has.
    """
    chosen = {data.task.name: [each for each in data.languages if not languages or each in languages] for data in tasks}
    for each in languages:
        if not any(each in found for found in chosen.values()):
            raise UserError(
                f"--languages {each}: no task of this suite has it; their files name the languages they have"
            )
    found = [work for data in tasks for subject in subjects for work in _works(subject, data, chosen, seeds)]
    return sorted(found, key=lambda work: work.unit.seed)


def _works(subject: AnySubject, data: TaskData, chosen: dict[str, list[str]], seeds: int | None) -> Iterator[Work]:
    task, head = data.task, HEADS[data.task.head]
    for unit in head.units(data, chosen[task.name], seeds or task.settings.seeds, subject.kind):
        cells = tuple(_cell(subject, data, unit, each) for each in unit.languages)
        yield Work(subject, data, unit, cells, _size(data, unit))


def _size(data: TaskData, unit: Unit) -> int:
    """Return the examples of a unit, all of which are read."""
    head, settings = HEADS[data.task.head], data.task.settings
    limits = {"train": settings.max_train, "dev": settings.max_dev, "test": settings.max_test}
    files = {read for language in unit.languages for read in head.reads(unit, language)}
    return sum(min(len(data.examples(split, name)), limits.get(split, sys.maxsize)) for split, name in files)


def _cell(subject: AnySubject, data: TaskData, unit: Unit, language: str) -> Cell:
    reads = HEADS[data.task.head].reads(unit, language)
    parts = {
        "format": FORMAT,
        "subject": subject.identity,
        "task": _what_counts(data.task),
        "data": [[split, data.digest(split, name)] for split, name in reads],
        "unit": [unit.setting, unit.seed, unit.source, language],
    }
    identity = hashlib.sha256(to_json(parts, sort_keys=True).encode()).hexdigest()
    folder = f"{_slug(subject.label)}-{hashlib.sha256(subject.label.encode()).hexdigest()[:6]}"
    path = Path(folder, data.task.name, _slug(unit.setting), f"{_slug(language)}-{unit.seed}.json")
    return Cell(data.task.name, unit.setting, language, unit.seed, subject.label, subject.kind, identity, path)


def _what_counts(task: Task) -> dict[str, object]:
    """Return what of a definition changes a score."""
    values = task.model_dump(mode="json", exclude=_SHAPES_NO_SCORE)
    values["settings"].pop("seeds")
    values["settings"].pop("in_language")
    return values


def _slug(text: str) -> str:
    """Return a text as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-.")[-60:] or "unnamed"
