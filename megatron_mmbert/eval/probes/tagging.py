"""Tagging of words by logistic regression on the states of a word's first and last token.

Words stand in running text, with a space before each where the script has spaces, and are found in it by their
characters' places; or are tokenized one by one without a space, as scripts do that pass lists of words. Both are
scored: a vocabulary whose pieces begin with a space knows only the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np

from megatron_mmbert.eval.probes.base import Head, Outcome, Unit, transfer_units
from megatron_mmbert.eval.probes.classification import training_sample
from megatron_mmbert.eval.probes.linear import Fitted, fit
from megatron_mmbert.eval.probes.subjects import NGRAMS, Features, Subject
from megatron_mmbert.eval.tasks.data import Example, TaskData
from megatron_mmbert.eval.tasks.definition import Split
from megatron_mmbert.eval.tasks.languages import UNSPACED

PREFIX, NO_PREFIX = "prefix space", "no prefix space"
OUTSIDE = "O"


class Tagging(Head):
    """A tag of each word: accuracy by word, or F1 of the spans that tags ``B-X`` and ``I-X`` say."""

    def units(self, data: TaskData, languages: Sequence[str], seeds: int, kind: str) -> list[Unit]:
        """Return units in-language and by transfer, for each seed and, of models, with and without prefix space."""
        units = transfer_units(data, languages, seeds)
        if kind == NGRAMS:
            return units
        return [replace(unit, setting=f"{unit.setting}, {way}") for unit in units for way in (PREFIX, NO_PREFIX)]

    def reads(self, unit: Unit, language: str) -> list[tuple[Split, str]]:
        """Return the source's training and dev files and the language's test file."""
        return [("train", str(unit.source)), ("dev", str(unit.source)), ("test", language)]

    def outcomes(self, unit: Unit, subject: Subject, data: TaskData) -> Iterator[tuple[str, Outcome]]:
        """Yield the score of each language."""
        settings, source = data.task.settings, str(unit.source)
        rows = data.examples("train", source, settings.max_train)
        dev = data.examples("dev", source, settings.max_dev)
        train = training_sample(data, source, unit.seed)
        tags = _tags([rows[at] for at in train])
        fitted = fit(
            _features(unit, subject, data, source, rows)[_words_of(rows, train)],
            tags,
            _features(unit, subject, data, source, dev),
            _tags(dev),
            subject.strengths,
        )
        about = {"C": fitted.strength, "dev score": fitted.dev_score, "train": len(train), "dev": len(dev)}
        kinds = len(data.task.labels or set(tags))
        for language in unit.languages:
            rows = data.examples("test", language, settings.max_test)
            found = fitted.predict(_features(unit, subject, data, language, rows))
            yield language, _outcome(data.task.scored_by, rows, found, fitted, kinds, about)


def _words_of(rows: Sequence[Example], chosen: Sequence[int]) -> np.ndarray:
    """Return the places, among the words of all ``rows``, of the words of the chosen ones."""
    ends = np.cumsum([len(row["words"]) for row in rows])
    return np.concatenate([np.arange(ends[at] - len(rows[at]["words"]), ends[at]) for at in chosen])


def _features(unit: Unit, subject: Subject, data: TaskData, language: str, rows: Sequence[Example]) -> Features:
    join = None
    if not unit.setting.endswith(NO_PREFIX):
        join = "" if data.facts(language).script in UNSPACED else " "
    return subject.words([row["words"] for row in rows], [join] * len(rows))


def _outcome(
    metric: str, rows: Sequence[Example], found: np.ndarray, fitted: Fitted, kinds: int, about: dict[str, Any]
) -> Outcome:
    ends = list(accumulate(len(row["tags"]) for row in rows))
    parts = [list(part) for part in np.split(found, ends[:-1])]
    golds = [row["tags"] for row in rows]
    if metric == "span_f1":
        counts = np.array([_span_counts(gold, part) for gold, part in zip(golds, parts, strict=True)], dtype=float)
        return Outcome(counts[:, 0], counts[:, 1], None, np.zeros(len(rows)), about)
    right = [sum(a == b for a, b in zip(gold, part, strict=True)) for gold, part in zip(golds, parts, strict=True)]
    majority = [sum(tag == fitted.majority for tag in gold) for gold in golds]
    sizes = np.array([len(gold) for gold in golds], dtype=float)
    return Outcome(np.array(right, dtype=float), sizes, 1 / kinds, np.array(majority, dtype=float), about)


def _span_counts(gold: Sequence[str], found: Sequence[str]) -> tuple[int, int]:
    """Return numerator and denominator of F1: twice the spans that both have, and the spans of both."""
    wanted, given = spans(gold), spans(found)
    return 2 * len(wanted & given), len(wanted) + len(given)


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Return (type, first word, word after the last); as in CoNLL, an ``I-X`` that continues nothing begins one."""
    found = set()
    kind, start = "", 0
    for place, tag in enumerate([*tags, OUTSIDE]):
        prefix, _, name = tag.partition("-")
        continues = prefix == "I" and name == kind and kind != ""
        if kind and not continues:
            found.add((kind, start, place))
            kind = ""
        if tag != OUTSIDE and not continues:
            kind, start = name, place
    return found


def _tags(rows: Sequence[Example]) -> list[str]:
    return [tag for row in rows for tag in row["tags"]]
