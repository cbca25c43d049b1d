"""Where sentences end, by NLTK's Punkt trained on the corpus itself: nothing is downloaded and nothing unpickled.

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
    """What Punkt learned of one language."""

    abbreviations: list[str] = field(default_factory=list)
    collocations: list[list[str]] = field(default_factory=list)
    starters: list[str] = field(default_factory=list)


class SentenceSplitter:
    """Finds the ends of sentences in texts of one language."""

    def __init__(self, learned: TrainedSplitter) -> None:
        from nltk.tokenize.punkt import PunktParameters, PunktSentenceTokenizer

        parameters = PunktParameters()
        parameters.abbrev_types = set(learned.abbreviations)
        parameters.collocations = {(first, second) for first, second in learned.collocations}
        parameters.sent_starters = set(learned.starters)
        self._punkt: Any = PunktSentenceTokenizer(parameters)

    def ends(self, text: str) -> list[int]:
        """Places behind the last character of sentences, ascending; white space belongs to what follows."""
        found = {match.end() for match in _SURE.finditer(text)}
        if _MAYBE.search(text):
            found.update(stop for _, stop in self._punkt.span_tokenize(text))
        return sorted(found - {len(text)})


def learn(text: str) -> TrainedSplitter:
    """What Punkt learns from ``text``: the same for the same text, in any process."""
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


def save(path: Path, languages: dict[str, TrainedSplitter]) -> None:
    """Write what was learned as JSON."""
    write_json(path, {language: vars(learned) for language, learned in sorted(languages.items())})


def load(path: Path) -> dict[str, TrainedSplitter]:
    """Read what :func:`save` wrote.

    Raises:
        UserError: missing or damaged.
    """
    value = read_json(path, "record of sentence ends", "make the part again with the same command and --overwrite")
    return {language: TrainedSplitter(**learned) for language, learned in value.items()}
