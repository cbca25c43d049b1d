"""Classification of texts and of pairs of texts by logistic regression, in each language and across languages."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence

import numpy as np

from megatron_mmbert.eval.probes.base import Head, Outcome, Unit, transfer_units
from megatron_mmbert.eval.probes.linear import fit
from megatron_mmbert.eval.probes.subjects import Features, Subject
from megatron_mmbert.eval.tasks.data import Example, TaskData
from megatron_mmbert.eval.tasks.definition import Split, Task

_TRAIN_SHARE = 0.8
"""Of the training examples that a task takes, each seed draws this much; all are encoded once for all seeds."""


class Classification(Head):
    """A label of a text; of two texts if the task has a second column."""

    def units(self, data: TaskData, languages: Sequence[str], seeds: int, kind: str) -> list[Unit]:
        """Return units in-language and by transfer, for each seed."""
        return transfer_units(data, languages, seeds)

    def reads(self, unit: Unit, language: str) -> list[tuple[Split, str]]:
        """Return the source's training and dev files and the language's test file."""
        return [("train", str(unit.source)), ("dev", str(unit.source)), ("test", language)]

    def outcomes(self, unit: Unit, subject: Subject, data: TaskData) -> Iterator[tuple[str, Outcome]]:
        """Yield the accuracy of each language."""
        task, settings, source = data.task, data.task.settings, str(unit.source)
        train, dev = training_sample(data, source, unit.seed), data.examples("dev", source, settings.max_dev)
        rows = data.examples("train", source, settings.max_train)
        labels = [rows[at]["label"] for at in train]
        fitted = fit(
            _features(task, subject, data.examples("train", source, settings.max_train))[train],
            labels,
            _features(task, subject, dev),
            [row["label"] for row in dev],
            subject.strengths,
        )
        about = {"C": fitted.strength, "dev score": fitted.dev_score, "train": len(train), "dev": len(dev)}
        kinds = len(task.labels or set(labels))
        for language in unit.languages:
            rows = data.examples("test", language, settings.max_test)
            gold = np.array([row["label"] for row in rows])
            right = fitted.predict(_features(task, subject, rows)) == gold
            unseen = sorted({row["label"] for row in rows} - set(labels))
            yield (
                language,
                Outcome(
                    right.astype(float),
                    np.ones(len(rows)),
                    1 / kinds,
                    (gold == fitted.majority).astype(float),
                    {**about, **({"labels not in the training sample": unseen} if unseen else {})},
                ),
            )


def training_sample(data: TaskData, language: str, seed: int) -> list[int]:
    """Return which of the (at most ``max_train``) training examples a seed draws, without replacement, ascending."""
    count = len(data.examples("train", language, data.task.settings.max_train))
    pick = random.Random(f"{data.task.name} {language} {seed}")
    return sorted(pick.sample(range(count), max(1, int(_TRAIN_SHARE * count))))


def _features(task: Task, subject: Subject, rows: Sequence[Example]) -> Features:
    first = subject.texts([row["text"] for row in rows])
    return pair_features(first, subject.texts([row["second"] for row in rows])) if task.head == "pair" else first


def pair_features(first: Features, second: Features) -> Features:
    """Return both sides, what they share, and of vectors how they differ: u, v, uv, |u - v| (InferSent, 2017)."""
    if isinstance(first, np.ndarray):
        return np.concatenate([first, second, first * second, np.abs(first - second)], axis=1)
    from scipy.sparse import hstack

    return hstack([first, second, first.multiply(second)], format="csr")
