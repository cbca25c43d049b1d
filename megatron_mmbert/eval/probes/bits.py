"""Bits per byte of sentences: what compares models of different vocabularies without any label."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from megatron_mmbert.eval.probes.base import Head, Outcome, Unit
from megatron_mmbert.eval.probes.subjects import Subject
from megatron_mmbert.eval.tasks.data import TaskData
from megatron_mmbert.eval.tasks.definition import Split

_BITS_OF_A_BYTE = 8.0


class Bits(Head):
    """Bits of each text over its bytes of UTF-8, less being better; guessing bytes takes 8."""

    def units(self, data: TaskData, languages: Sequence[str], seeds: int, kind: str) -> list[Unit]:
        """Return a unit for each language; nothing is drawn, so there is one seed."""
        return [Unit("pseudo-likelihood", 0, (each,)) for each in languages]

    def reads(self, unit: Unit, language: str) -> list[tuple[Split, str]]:
        """Return the file of texts."""
        return [("test", language)]

    def outcomes(self, unit: Unit, subject: Subject, data: TaskData) -> Iterator[tuple[str, Outcome]]:
        """Yield the bits and bytes of each language."""
        for language in unit.languages:
            texts = [row["text"] for row in data.examples("test", language, data.task.settings.max_test)]
            sizes = np.array([len(text.encode()) for text in texts], dtype=float)
            yield language, Outcome(subject.bits(texts), sizes, _BITS_OF_A_BYTE)
