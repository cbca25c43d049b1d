"""The ends of sentences, by NLTK's Punkt trained on the corpus itself: nothing is downloaded and nothing unpickled.

Punkt learns from plain text which words with a full stop are abbreviations. Of what it learns, abbreviations,
collocations and words that often begin sentences are kept; the letter case of every word would be megabytes for each
language and only decides about abbreviations at the end of a sentence. Marks that end sentences without doubt (``。``,
``।``, ``۔`` and so on) need no learning.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.files import read_json, write_json

SENTENCES_NAME = "sentences.json"
_CLOSING = "\"'”’»›」』】）)\\]"
_SURE = re.compile(f"[。！？｡︒।॥։۔؟።፧፨။។៕᠃꓿܀]+[{_CLOSING}]*|\\S(?=[ \t]*\n[ \t]*\n)")
_MAYBE = re.compile(r"[.?!]")


@dataclass
class TrainedSplitter:
    """The words of one language that Punkt learned to tell apart; empty: its default rules."""

    abbreviations: list[str] = field(default_factory=list)
    collocations: list[list[str]] = field(default_factory=list)
    starters: list[str] = field(default_factory=list)


class SentenceSplitter:
    """Finds the ends of sentences in texts of one language."""

    def __init__(self, trained: TrainedSplitter) -> None:
        # Imported here, as its seconds are for those who cut at sentence ends.
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

        parameters = PunktParameters()
        parameters.abbrev_types = set(trained.abbreviations)
        parameters.collocations = {(first, second) for first, second in trained.collocations}
        parameters.sent_starters = set(trained.starters)
        self._punkt: Any = PunktSentenceTokenizer(parameters)

    def ends(self, text: str) -> list[int]:
        """Return the offsets after the last characters of sentences, ascending; white space belongs to the next one."""
        ends = {match.end() for match in _SURE.finditer(text)}
        if _MAYBE.search(text):
            ends.update(stop for _, stop in self._punkt.span_tokenize(text))
        return sorted(ends - {len(text)})


def train_splitter(text: str) -> TrainedSplitter:
    """Train Punkt on ``text``: the result is the same for the same text, in any process."""
    from nltk.tokenize.punkt import PunktTrainer

    trainer = PunktTrainer()
    trainer.train(text, finalize=False)
    trainer.finalize_training()
    parameters = trainer.get_params()
    return TrainedSplitter(
        sorted(parameters.abbrev_types),
        sorted(map(list, parameters.collocations)),
        sorted(parameters.sent_starters),
    )


def save_splitters(path: Path, languages: dict[str, TrainedSplitter]) -> None:
    """Write the trained splitter of each language as JSON."""
    write_json(path, {language: vars(trained) for language, trained in sorted(languages.items())})


def load_splitters(path: Path) -> dict[str, TrainedSplitter]:
    """Read the file that :func:`save_splitters` wrote.

    Raises:
        UserError: missing or damaged.
    """
    value = read_json(path, "record of sentence ends", "make the partition again with the same command and --overwrite")
    return {language: TrainedSplitter(**trained) for language, trained in value.items()}
