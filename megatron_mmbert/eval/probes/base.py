"""Words of probes: the unit of work, its outcome by example, and what a head does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from megatron_mmbert.eval.probes.subjects import Subject
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.definition import Split

IN_LANGUAGE = "in-language"


@dataclass(frozen=True)
class Unit:
    """The languages that are scored with one fit (or without any).

    Attributes:
        setting: in words: ``in-language``, ``from eng_Latn, prefix space``, ``to eng``.
        source: the language that is learned from, or whose passages are searched; None: of each language its own.
    """

    setting: str
    seed: int
    languages: tuple[str, ...]
    source: str | None = None

    @property
    def plain_setting(self) -> str:
        """The setting without what concerns tokenizers alone; the n-gram baseline's."""
        return self.setting.partition(", ")[0]


@dataclass(frozen=True)
class Outcome:
    """The score of one language by example: the sum of ``numerators`` over that of ``denominators``.

    Attributes:
        chance: what guessing gives; None where it depends on the examples.
        majority: the numerators of an answer that is always the most frequent label of the training sample.
        about: what was chosen, and the sizes.
    """

    numerators: np.ndarray
    denominators: np.ndarray
    chance: float | None = None
    majority: np.ndarray | None = None
    about: dict[str, Any] = field(default_factory=dict)

    @property
    def score(self) -> float:
        """The score of all examples; 0 where there is nothing to be right or wrong about."""
        total = float(self.denominators.sum())
        return float(self.numerators.sum()) / total if total else 0.0


class Head(ABC):
    """The work on the data of a task, whoever the subject is."""

    @abstractmethod
    def units(self, data: TaskData, languages: Sequence[str], seeds: int, kind: str) -> list[Unit]:
        """Return the work of a subject of ``kind`` on ``languages``."""

    @abstractmethod
    def outcomes(self, unit: Unit, subject: Subject, data: TaskData) -> Iterator[tuple[str, Outcome]]:
        """Yield each language of the unit with its outcome."""

    @abstractmethod
    def reads(self, unit: Unit, language: str) -> list[tuple[Split, str]]:
        """Return the files, as (split, language), that the outcome of ``language`` depends on."""


def transfer_units(data: TaskData, languages: Sequence[str], seeds: int) -> list[Unit]:
    """Return the units of a head that learns: each language by its own training data, and all others by the source's.

    Raises:
        UserError: the source language has no training data.
    """
    trained, settings = data.trained_languages(), data.task.settings
    found: list[Unit] = []
    for seed in range(seeds):
        if settings.in_language:
            found += [Unit(IN_LANGUAGE, seed, (each,), each) for each in languages if each in trained]
        others = tuple(each for each in languages if each != settings.source)
        if settings.source and others:
            data.examples("train", settings.source)
            found.append(Unit(f"from {settings.source}", seed, others, settings.source))
    return found
