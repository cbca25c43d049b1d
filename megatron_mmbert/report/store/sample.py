"""A seeded sample of a dataset's documents, decoded: what its text looks like, where counts of all would take days."""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.reader import Dataset, Store
from megatron_mmbert.report.store.scripts import script_counts
from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.utils.counter_rng import hash64, string_key
from megatron_mmbert.utils.errors import UserError

MIN_LINE = 12
"""Characters of a line that is worth being called a repeated one."""
SEED = 18
_BYTE_PIECE = re.compile(r"<0x([89A-F][0-9A-F])>")
_REPLACEMENT = "\ufffd"
_EXCERPTS, _EXCERPT_CHARACTERS = 3, 500
_COMMON_LINES, _LINE_CHARACTERS = 3, 120


@dataclass(frozen=True)
class SampleSize:
    """The documents of each dataset that are read, and how many tokens of each, from its start."""

    documents: int = 100
    tokens: int = 1000
    seed: int = SEED


class Decoder:
    """The tokenizer, and what each of its ids stands for."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        pieces = [tokenizer.spelled(number) for number in range(tokenizer.vocab_size)]
        self.is_byte = np.array([_BYTE_PIECE.fullmatch(piece) is not None for piece in pieces])
        """True for ids that are a byte of a character beyond ASCII, bool [vocab_size]."""


@dataclass(frozen=True)
class Line:
    """A line that several documents have."""

    text: str
    documents: int


@dataclass(frozen=True)
class Excerpt:
    """The beginning of a document; ``document`` is its index in the dataset."""

    document: int
    text: str


@dataclass(frozen=True)
class TextSample:
    """The sampled text of a dataset.

    Attributes:
        documents, tokens, characters: of the sample.
        byte_tokens: tokens that are one byte of a character that the vocabulary lacks.
        unknown_tokens: tokens that stand for text that is lost.
        replacements: characters U+FFFD, which stand for damaged text.
        scripts: letters by script, the most frequent first.
        lines, repeated_lines: lines of ``MIN_LINE`` characters or more, and those of them that came before.
        common_lines: the lines that most documents have, of those in two or more.
        excerpts: some documents to read.
    """

    documents: int
    tokens: int
    characters: int
    byte_tokens: int
    unknown_tokens: int
    replacements: int
    scripts: dict[str, int]
    lines: int
    repeated_lines: int
    common_lines: tuple[Line, ...]
    excerpts: tuple[Excerpt, ...]


def take_sample(store: Store, dataset: Dataset, decoder: Decoder, size: SampleSize) -> TextSample:
    """Return what a sample of ``dataset`` looks like.

    Raises:
        UserError: a sampled document is damaged, or has ids that the tokenizer has not.
    """
    numbers = sampled_documents(dataset, size)
    byte_tokens = unknown_tokens = tokens = 0
    texts: list[str] = []
    for ids in _read(store, dataset, numbers, size.tokens, decoder.tokenizer.vocab_size):
        tokens += len(ids)
        byte_tokens += int(decoder.is_byte[ids].sum())
        unknown_tokens += int((ids == decoder.tokenizer.unk_id).sum())
        text = decoder.tokenizer.decode(ids)
        # The last character may be cut, where the document goes further.
        texts.append(text.rstrip(_REPLACEMENT) if len(ids) == size.tokens else text)
    together = "\n".join(texts)
    in_documents, lines = _count_lines(texts)
    frequent = heapq.nsmallest(_COMMON_LINES, in_documents.items(), key=lambda item: (-item[1], item[0]))
    common = [Line(line[:_LINE_CHARACTERS], count) for line, count in frequent]
    return TextSample(
        documents=len(texts),
        tokens=tokens,
        characters=len(together),
        byte_tokens=byte_tokens,
        unknown_tokens=unknown_tokens,
        replacements=together.count(_REPLACEMENT),
        scripts=script_counts(together),
        lines=lines.total(),
        repeated_lines=lines.total() - len(lines),
        common_lines=tuple(line for line in common if line.documents > 1),
        excerpts=tuple(
            Excerpt(number, text[:_EXCERPT_CHARACTERS])
            for number, text in list(zip(numbers, texts, strict=True))[:_EXCERPTS]
        ),
    )


def excerpt(store: Store, dataset: Dataset, decoder: Decoder, document: int, size: SampleSize) -> Excerpt:
    """Return the beginning of one document.

    Raises:
        UserError: as :func:`take_sample`.
    """
    (ids,) = _read(store, dataset, [document], size.tokens, decoder.tokenizer.vocab_size)
    return Excerpt(document, decoder.tokenizer.decode(ids)[:_EXCERPT_CHARACTERS])


def sampled_documents(dataset: Dataset, size: SampleSize) -> list[int]:
    """Return the documents to read, in a seeded order: all of a small dataset, else about ``size.documents``."""
    name = string_key(f"{dataset.source}/{dataset.language}")
    if dataset.documents <= size.documents:
        numbers = np.arange(dataset.documents, dtype=np.uint64)
    else:
        numbers = np.unique(hash64(size.seed, name, np.arange(size.documents)) % np.uint64(dataset.documents))
    order = np.argsort(hash64(size.seed + 1, name, numbers), kind="stable")
    return [int(number) for number in numbers[order]]


def readable(text: str) -> str:
    """Return ``text`` with what cannot be seen, or would reorder what is around it, as ``[U+202E]``."""
    return "".join(character if _is_shown(character) else f"[U+{ord(character):04X}]" for character in text)


def _is_shown(character: str) -> bool:
    if character in "\n\t\u200c\u200d":  # joiners shape letters of many scripts
        return True
    return unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _read(
    store: Store, dataset: Dataset, numbers: Sequence[int], max_tokens: int, vocab_size: int
) -> Iterator[npt.NDArray[Any]]:
    """Yield the first ids of documents."""
    reader = store.reader(dataset.source, dataset.language)
    for number in numbers:
        ids = reader(number, 0, min(reader.tokens_of(number), max_tokens))
        if ids.min() < 0 or ids.max() >= vocab_size:
            where = store.where(dataset.source, dataset.language, number)
            raise UserError(f"{where}: has an id that is not in the vocabulary of {vocab_size}; run mmbert verify")
        yield ids


def _count_lines(texts: Sequence[str]) -> tuple[Counter[str], Counter[str]]:
    """Return the documents that each line is in, and the times that it is there."""
    in_documents: Counter[str] = Counter()
    times: Counter[str] = Counter()
    for text in texts:
        lines = [line for line in map(str.strip, text.split("\n")) if len(line) >= MIN_LINE]
        times.update(lines)
        in_documents.update(set(lines))
    return in_documents, times
