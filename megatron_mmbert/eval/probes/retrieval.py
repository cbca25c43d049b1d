"""Retrieval by the cosine of vectors: translations of sentences (bitext), and passages that answer a question."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from megatron_mmbert.eval.probes.base import IN_LANGUAGE, Head, Outcome, Unit
from megatron_mmbert.eval.probes.subjects import Features, Subject
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.definition import Split
from megatron_mmbert.utils.errors import UserError

_EQUAL = 1e-6
"""Cosines that differ by less are equal: an answer is then as good as a guess among them."""


class Bitext(Head):
    """The translation of each text among all; both ways."""

    def units(self, data: TaskData, languages: Sequence[str], seeds: int, kind: str) -> list[Unit]:
        """Return a unit for each language and direction; nothing is drawn, so there is one seed."""
        target = data.task.columns["target"]
        return [Unit(f"{way} {target}", 0, (each,)) for each in languages for way in ("to", "from")]

    def reads(self, unit: Unit, language: str) -> list[tuple[Split, str]]:
        """Return the test file."""
        return [("test", language)]

    def outcomes(self, unit: Unit, subject: Subject, data: TaskData) -> Iterator[tuple[str, Outcome]]:
        """Yield accuracy at 1 of each language."""
        settings = data.task.settings
        for language in unit.languages:
            rows = data.examples("test", language, settings.max_test)
            sides = [subject.texts([row[role] for row in rows]) for role in ("text", "target")]
            sides = [comparable(side, settings.centre) for side in sides]
            if unit.setting.startswith("from "):
                sides.reverse()
            right = np.arange(len(rows))
            greater, equal = _standing(_cosines(*sides), right)
            hits = np.where(greater == 0, 1 / equal, 0.0)
            yield language, Outcome(hits, np.ones(len(rows)), 1 / len(rows), about={"candidates": len(rows)})


class Passages(Head):
    """The passage that answers each question: among those of its language, and among the source language's."""

    def units(self, data: TaskData, languages: Sequence[str], seeds: int, kind: str) -> list[Unit]:
        """Return a unit for each language and set of passages."""
        source = data.task.settings.source
        found = []
        for each in languages:
            found.append(Unit(IN_LANGUAGE, 0, (each,), each))
            if source and source != each:
                found.append(Unit(f"to {source}", 0, (each,), source))
        return found

    def reads(self, unit: Unit, language: str) -> list[tuple[Split, str]]:
        """Return questions and passages."""
        return [("test", language), ("passages", str(unit.source))]

    def outcomes(self, unit: Unit, subject: Subject, data: TaskData) -> Iterator[tuple[str, Outcome]]:
        """Yield mean reciprocal rank, or accuracy at 1, of each language.

        Raises:
            UserError: a question's passage is not there.
        """
        settings, by_rank = data.task.settings, data.task.scored_by == "mrr"
        passages = data.examples("passages", str(unit.source))
        place = {row["key"]: at for at, row in enumerate(passages)}
        found = comparable(subject.texts([row["text"] for row in passages]), settings.centre)
        for language in unit.languages:
            rows = data.examples("test", language, settings.max_test)
            for row in rows:
                if row["key"] not in place:
                    path = data.path("passages", str(unit.source))
                    raise UserError(f"{path}: no passage {row['key']!r}, which a question of {language!r} asks for")
            asked = comparable(subject.texts([row["text"] for row in rows]), settings.centre)
            greater, equal = _standing(_cosines(asked, found), np.array([place[row["key"]] for row in rows]))
            hits = np.where(greater == 0, 1 / equal, 0.0)
            ranks = 1 / np.arange(1, len(passages) + 1)
            yield (
                language,
                Outcome(
                    1 / (1 + greater + (equal - 1) / 2) if by_rank else hits,
                    np.ones(len(rows)),
                    float(ranks.mean()) if by_rank else 1 / len(passages),
                    about={"candidates": len(passages)},
                ),
            )


def comparable(features: Features, centre: bool) -> Features:
    """Return rows of length 1: of vectors the mean taken off before, of n-grams those weighed up that are rare here."""
    if isinstance(features, np.ndarray):
        centred = features - features.mean(0) if centre else features
        return centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    from sklearn.feature_extraction.text import TfidfTransformer

    return TfidfTransformer().fit_transform(features)


def _cosines(queries: Features, candidates: Features) -> np.ndarray:
    found = queries @ candidates.T
    return found if isinstance(found, np.ndarray) else found.toarray()


def _standing(cosines: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return, of each query, how many candidates are above the right one, and how many equal it, itself included."""
    own = cosines[np.arange(len(right)), right][:, None]
    greater = (cosines > own + _EQUAL).sum(1)
    return greater, (np.abs(cosines - own) <= _EQUAL).sum(1)
