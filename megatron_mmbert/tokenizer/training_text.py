"""The text that a tokenizer is trained on: every language by temperature, streamed, the same for the same seed.

Language i gets a share p_i = n_i^tau / sum_j n_j^tau of the budget, n_i its bytes of text. Below tau = 1 small
languages get more than they have: their text is repeated, up to a bound. The unit drawn is a *line* (of a long one, a
part) and not a document, because in a language with one document a document is all or nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from megatron_mmbert.data.text.documents import read_file
from megatron_mmbert.data.text.inputs.codes import check_spellings
from megatron_mmbert.data.text.inputs.discover import InputOptions, discover
from megatron_mmbert.data.text.records import Document, InputFile, SkippedLines
from megatron_mmbert.tokenizer.whitespace import ESCAPE, SPACE
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.progress import ByteProgress

_CHARACTERS_AT_ONCE = 1 << 20
MAX_LINE_CHARACTERS = 4096
"""The longest line drawn. SentencePiece drops or truncates long lines without a word, so none is given to it."""

BOUNDARIES = f"\t\r\x00▅{SPACE}{ESCAPE}"
"""Characters that are never part of a learned piece: tabs and carriage returns have pieces of their own, SentencePiece
drops a whole line with U+2585 (its mark for an unknown character) in it, and U+2581 and its escape are no letters."""


@dataclass
class LanguageText:
    """The corpus's text in one language; ``characters`` counts each character of its text."""

    files: list[InputFile] = field(default_factory=list)
    documents: int = 0
    bytes: int = 0
    characters: Counter[str] = field(default_factory=Counter)


def measure_corpus(inputs: list[Path], options: InputOptions, skipped: SkippedLines | None) -> dict[str, LanguageText]:
    """Read everything once: bytes, documents and characters per language, in the order of the names.

    Reading all of it before training means that a bad line ends the command early and not after an hour.

    Raises:
        UserError: a bad path or line (lines only without ``skipped``), or no text at all.
    """
    found = discover(inputs, options)
    found.announce()
    languages: dict[str, LanguageText] = {}
    with ByteProgress("reading", sum(file.path.stat().st_size for file in found.files)) as progress:
        for file in found.files:
            unreported = file.path.stat().st_size
            for document in read_file(file, skipped):
                size = len(document.text.encode("utf-8"))
                language = languages.setdefault(_language(file, document), LanguageText())
                if not language.files or language.files[-1] is not file:
                    language.files.append(file)
                language.documents += 1
                language.bytes += size
                for first in range(0, len(document.text), _CHARACTERS_AT_ONCE):  # a document may take minutes
                    language.characters.update(document.text[first : first + _CHARACTERS_AT_ONCE])
                    progress.add(0)
                progress.add(min(size, unreported))
                unreported -= min(size, unreported)
            progress.add(unreported)
    check_spellings(languages)
    if not any(language.bytes for language in languages.values()):
        raise UserError(f"{', '.join(map(str, inputs))}: no text in the input; check --input and --text-field")
    return {name: languages[name] for name in sorted(languages) if languages[name].bytes}


def _language(file: InputFile, document: Document) -> str:
    language = file.language or document.language
    assert language is not None  # a line without one is a bad line when the file has none
    return language


def copies_per_line(sizes: Mapping[str, int], temperature: float, budget: int, max_copies: float) -> dict[str, float]:
    """Return how often each line of a language is used on average (0.1: one in ten; 3: three times).

    What a language cannot take within ``max_copies`` goes to the others by the same rule, so the budget is met unless
    all languages are at the bound.

    Args:
        sizes: bytes of text (> 0) per language.
        temperature: tau; 1 is proportional to size, 0 gives every language the same.
        budget: total bytes to draw.
    """
    copies: dict[str, float] = {}
    # Weights relative to the largest language, so that the power neither overflows nor vanishes.
    largest = max(sizes.values())
    weights = {name: (sizes[name] / largest) ** temperature for name in sorted(sizes)}
    left = float(budget)
    while weights:
        per_weight = left / sum(weights.values())
        full = [name for name in weights if weights[name] * per_weight > max_copies * sizes[name]]
        for name in full or list(weights):
            copies[name] = max_copies if full else weights[name] * per_weight / sizes[name]
            left -= copies[name] * sizes[name]
            del weights[name]
    return copies


def cut_lines(text: str, drop_cut_space: bool) -> Iterator[str]:
    """Yield the lines of ``text``, long ones cut before a space (or anywhere in a script without spaces).

    Args:
        drop_cut_space: the trainer puts a space in front of every line itself, so the one at the cut is left out.
    """
    for line in text.split("\n"):
        while len(line) > MAX_LINE_CHARACTERS:
            cut = line.rfind(" ", 1, MAX_LINE_CHARACTERS)
            cut = cut if cut > 0 else MAX_LINE_CHARACTERS
            yield line[:cut]
            line = line[cut:]
            if drop_cut_space:
                line = line.removeprefix(" ")
        if line:
            yield line


@dataclass
class Sampler:
    """The lines to train on. Iterating twice gives the same text; ``drawn`` holds the bytes of the latest pass."""

    languages: dict[str, LanguageText]
    copies: dict[str, float]
    seed: int
    prefix_space: bool
    drawn: Counter[str] = field(default_factory=Counter)

    @property
    def expected_bytes(self) -> int:
        """The bytes that one pass gives, about."""
        return round(sum(self.copies[name] * language.bytes for name, language in self.languages.items()))

    def character_weights(self) -> Counter[str]:
        """Return how often each character is expected in one pass (a Counter of floats)."""
        weights: dict[str, float] = {}
        for name, language in self.languages.items():
            for character, count in language.characters.items():
                weights[character] = weights.get(character, 0.0) + count * self.copies[name]
        for character in "\n" + BOUNDARIES:
            weights.pop(character, None)
        return Counter(weights)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[str]:
        self.drawn.clear()
        for name in self.languages:
            for line, copies in zip(self._lines(name), self._copies(name), strict=False):
                self.drawn[name] += copies * len(line.encode("utf-8"))
                for _ in range(copies):
                    yield line

    def _lines(self, name: str) -> Iterator[str]:
        for file in self.languages[name].files:
            # Bad lines were reported, or refused, when the corpus was measured.
            for document in read_file(file, SkippedLines()):
                if _language(file, document) == name:
                    yield from cut_lines(document.text, drop_cut_space=self.prefix_space)

    def _copies(self, name: str) -> Iterator[int]:
        """Yield the copies of line 0, 1, …: spread evenly over the text and exact to one line, from a seeded start."""
        rate = self.copies[name]
        digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
        start = int.from_bytes(digest[:6], "big") / 2**48
        k = 0
        while True:
            yield math.floor((k + 1) * rate + start) - math.floor(k * rate + start)
            k += 1
