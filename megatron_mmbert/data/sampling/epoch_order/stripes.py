"""The documents of a dataset divided into stripes, which an epoch reads one after the other.

An epoch of a dataset reads its stripes in order, and the examples of each in keyed order. The documents of a stripe
depend on the text alone, never on the length of samples, so a phase with longer samples can resume after the stripe
that a phase with shorter ones was reading (``position.py``): every position in a dataset's epoch is a few integers.

Stripe c of C holds the documents c, c + C, c + 2 C, ...: a fair sample of the dataset whatever the order of its
documents. Small datasets are one stripe. A large one has up to ``MAX_STRIPES``, each of some million tokens at least,
so that the examples of one long document are spread over many packs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.examples import Int64s, count_examples, narrow_lengths
from megatron_mmbert.data.sampling.settings import DataPhase, MixtureError, ResumePoint, TokenSource
from megatron_mmbert.utils.errors import nearest

MAX_STRIPES = 64
_ROWS = 4096  # of a dataset's table of documents transposed at a time, to stay in a core's cache


@dataclass(frozen=True)
class Stripes:
    """The datasets of a phase and their stripes; the stripes of all datasets stand one after another, K of them.

    Attributes:
        names: (source, language) of every dataset with text, sorted.
        documents, tokens, stripes: int64 [datasets].
        first_stripe: int64 [datasets], index of the dataset's stripe 0 among all stripes.
        stripe_tokens, stripe_examples: int64 [K]; examples of at most the phase's ``max_length``.
        stripe_start: int64 [K], examples of all stripes before.
        begun_examples: int64 [datasets], examples of the stripe in progress as the phase that began it cut them; 0
            where this phase has the same examples in the same order, or begins a stripe.
    """

    names: list[tuple[str, str]]
    documents: Int64s
    tokens: Int64s
    stripes: Int64s
    first_stripe: Int64s
    stripe_tokens: Int64s
    stripe_examples: Int64s
    stripe_start: Int64s
    begun_examples: Int64s

    @property
    def examples(self) -> Int64s:
        """int64 [datasets]."""
        return np.add.reduceat(self.stripe_examples, self.first_stripe)

    @property
    def first_example(self) -> Int64s:
        """int64 [datasets], examples of the datasets before."""
        return self.stripe_start[self.first_stripe]

    @property
    def first_document(self) -> Int64s:
        """int64 [K], documents of all stripes before."""
        before = np.cumsum(self.documents) - self.documents
        in_dataset = [first_documents(*each) for each in zip(self.documents, self.stripes, strict=True)]
        return np.concatenate(in_dataset) + np.repeat(before, self.stripes)


class _Dataset(NamedTuple):
    stripe_tokens: Int64s
    stripe_examples: Int64s
    begun_examples: int


class _GrowingArray:
    """Arrays laid end to end as they come, without ever holding any of them twice: a bytearray grows in place."""

    def __init__(self) -> None:
        self._bytes, self._dtype = bytearray(), np.dtype(np.int32)

    def add(self, part: npt.NDArray[Any]) -> None:
        if part.dtype.itemsize > self._dtype.itemsize:
            self._bytes, self._dtype = bytearray(self.array().astype(part.dtype).tobytes()), part.dtype
        self._bytes += np.ascontiguousarray(part, dtype=self._dtype).data.cast("B")

    def array(self) -> npt.NDArray[Any]:
        return np.frombuffer(self._bytes, dtype=self._dtype)


def divide_into_stripes(source: TokenSource, phase: DataPhase) -> tuple[Stripes, npt.NDArray[Any]]:
    """Return the stripes of the phase's datasets, and the ids of every document, stripe after stripe.

    Returns:
        The stripes; lengths, int32 or int64 [documents].

    Raises:
        UserError: there is no text, or as ``selected_datasets``.
    """
    names, datasets, documents, all_lengths = [], list[_Dataset](), [], _GrowingArray()
    for name in selected_datasets(source, phase):
        lengths = narrow_lengths(source.document_lengths(*name))
        if lengths.any():
            names.append(name)
            documents.append(len(lengths))
            datasets.append(_divide_dataset(lengths, phase, phase.resume_points.get(name), all_lengths))
    if not names:
        raise MixtureError(f"phase {phase.name!r}: its sources and languages hold no text")
    stripe_tokens, stripe_examples = (np.concatenate([each[column] for each in datasets]) for column in (0, 1))
    counts = np.array([len(each.stripe_tokens) for each in datasets], dtype=np.int64)
    first_stripe = np.cumsum(counts) - counts
    stripes = Stripes(
        names=names,
        documents=np.array(documents, dtype=np.int64),
        tokens=np.add.reduceat(stripe_tokens, first_stripe),
        stripes=counts,
        first_stripe=first_stripe,
        stripe_tokens=stripe_tokens,
        stripe_examples=stripe_examples,
        stripe_start=np.cumsum(stripe_examples) - stripe_examples,
        begun_examples=np.array([each.begun_examples for each in datasets], dtype=np.int64),
    )
    return stripes, all_lengths.array()


def _divide_dataset(
    lengths: npt.NDArray[Any], phase: DataPhase, point: ResumePoint | None, all_lengths: _GrowingArray
) -> _Dataset:
    tokens = int(lengths.sum(dtype=np.int64))
    count = max(1, min(MAX_STRIPES, len(lengths), tokens // phase.min_stripe_tokens))
    lengths = by_stripe(lengths, count)
    first = first_documents(len(lengths), count)
    stripes = np.split(lengths, first[1:])
    begun_examples = 0
    if point is not None and point.example and not point.same_order(phase):
        begun_examples = count_examples(stripes[point.stripe], point.max_length)
    all_lengths.add(lengths)
    return _Dataset(
        np.add.reduceat(lengths, first, dtype=np.int64),
        np.array([count_examples(stripe, phase.max_length) for stripe in stripes], dtype=np.int64),
        begun_examples,
    )


def by_stripe(lengths: npt.NDArray[Any], stripes: int) -> npt.NDArray[Any]:
    """Return lengths [documents], in the dataset's order, stripe after stripe."""
    if stripes == 1:
        return lengths
    rows = len(lengths) // stripes
    grid = lengths[: rows * stripes].reshape(rows, stripes)
    turned = np.empty((stripes, rows), dtype=lengths.dtype)
    for first in range(0, rows, _ROWS):
        turned[:, first : first + _ROWS] = grid[first : first + _ROWS].T
    last_row = lengths[rows * stripes :]
    return np.insert(turned.reshape(-1), np.arange(1, len(last_row) + 1) * rows, last_row)


def first_documents(documents: int, stripes: int) -> Int64s:
    """Return the index at which each stripe begins among documents laid stripe after stripe, int64 [stripes]."""
    rows, longer = divmod(documents, stripes)
    stripe = np.arange(stripes)
    return stripe * rows + np.minimum(stripe, longer)


def selected_datasets(source: TokenSource, phase: DataPhase) -> list[tuple[str, str]]:
    """Return (source, language) of the phase's datasets, sorted: those of the store that its settings name.

    Raises:
        UserError: a name the store does not have.
    """
    names = sorted((dataset.source, dataset.language) for dataset in source.datasets)
    for kind, wanted, has in (
        ("source", phase.sources, {name for name, _ in names}),
        ("source", phase.tempered, {name for name, _ in names}),
        ("language", phase.languages, {language for _, language in names}),
    ):
        for name in wanted or ():
            if name not in has:
                raise MixtureError(f"phase {phase.name!r}: the data has no {kind} {name!r}{nearest(name, has)}")
    return [
        (name, language)
        for name, language in names
        if (phase.sources is None or name in phase.sources) and (phase.languages is None or language in phase.languages)
    ]
