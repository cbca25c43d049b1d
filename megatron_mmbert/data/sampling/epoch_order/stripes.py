"""Documents of a group divided into classes, which are read one after the other.

An epoch of a group goes through its classes in order, and through the pieces of each in keyed order. Which documents
form a class depends on the text alone, never on the length of samples, so a phase with longer samples can go on behind
the class that a phase with shorter ones was reading (``course``): every ``place`` in a group's epoch is a few integers.

Class c of C holds the documents c, c + C, c + 2 C, ...: a fair sample of the group whatever the order of its documents.
Small groups are one class. A large one has up to ``MAX_STRIPES``, each of some million tokens at least, so that the
pieces of one long document are spread over many packs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.examples import Int64s, count_examples, narrow_lengths
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint, TokenSource
from megatron_mmbert.utils.errors import UserError, nearest

MAX_STRIPES = 64
_ROWS = 4096  # of a group's table of documents transposed at a time, to stay in a core's cache


@dataclass(frozen=True)
class Stripes:
    """The groups of a phase and their classes; classes of all groups stand in one row, K of them.

    Attributes:
        names: (source, language) of every group with text, sorted.
        documents, tokens, classes: int64 [groups].
        first_class: int64 [groups], place of the group's class 0 in the row.
        class_tokens, class_pieces: int64 [K]; pieces of at most the phase's ``max_length``.
        class_start: int64 [K], pieces of all classes before.
        rest_pieces: int64 [groups], pieces of the class in progress in the cut of the phase that began it; 0 where
            this phase goes on in the same order of pieces, or begins a class.
    """

    names: list[tuple[str, str]]
    documents: Int64s
    tokens: Int64s
    classes: Int64s
    first_class: Int64s
    class_tokens: Int64s
    class_pieces: Int64s
    class_start: Int64s
    rest_pieces: Int64s

    @property
    def pieces(self) -> Int64s:
        """int64 [groups]."""
        return np.add.reduceat(self.class_pieces, self.first_class)

    @property
    def first_piece(self) -> Int64s:
        """int64 [groups], pieces of the groups before."""
        return self.class_start[self.first_class]

    @property
    def first_document(self) -> Int64s:
        """int64 [K], documents of all classes before."""
        before = np.cumsum(self.documents) - self.documents
        in_group = [first_documents(*each) for each in zip(self.documents, self.classes, strict=True)]
        return np.concatenate(in_group) + np.repeat(before, self.classes)


class _Group(NamedTuple):
    class_tokens: Int64s
    class_pieces: Int64s
    rest_pieces: int


class _Row:
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
    """The division of the phase's groups, and the lengths of all documents, int32 or int64 [documents], class after
    class.

    Raises:
        UserError: there is no text, or as ``selected_datasets``.
    """
    names, groups, documents, row = [], list[_Group](), [], _Row()
    for name in selected_datasets(source, phase):
        lengths = narrow_lengths(source.document_lengths(*name))
        if lengths.any():
            names.append(name)
            documents.append(len(lengths))
            groups.append(_divide_group(lengths, phase, phase.places.get(name), row))
    if not names:
        raise UserError(f"phase {phase.name!r}: its sources and languages hold no text")
    class_tokens, class_pieces = (np.concatenate([group[column] for group in groups]) for column in (0, 1))
    classes = np.array([len(group.class_tokens) for group in groups], dtype=np.int64)
    first_class = np.cumsum(classes) - classes
    division = Stripes(
        names=names,
        documents=np.array(documents, dtype=np.int64),
        tokens=np.add.reduceat(class_tokens, first_class),
        classes=classes,
        first_class=first_class,
        class_tokens=class_tokens,
        class_pieces=class_pieces,
        class_start=np.cumsum(class_pieces) - class_pieces,
        rest_pieces=np.array([group.rest_pieces for group in groups], dtype=np.int64),
    )
    return division, row.array()


def _divide_group(lengths: npt.NDArray[Any], phase: DataPhase, place: ResumePoint | None, row: _Row) -> _Group:
    tokens = int(lengths.sum(dtype=np.int64))
    count = max(1, min(MAX_STRIPES, len(lengths), tokens // phase.class_tokens))
    lengths = by_stripe(lengths, count)
    first = first_documents(len(lengths), count)
    parts = np.split(lengths, first[1:])
    rest = 0
    if place is not None and place.piece and not place.same_order(phase):
        rest = count_examples(parts[place.number], place.max_length)
    row.add(lengths)
    return _Group(
        np.add.reduceat(lengths, first, dtype=np.int64),
        np.array([count_examples(part, phase.max_length) for part in parts], dtype=np.int64),
        rest,
    )


def by_stripe(lengths: npt.NDArray[Any], classes: int) -> npt.NDArray[Any]:
    """[documents] in the group's order -> [documents], class after class."""
    if classes == 1:
        return lengths
    rows = len(lengths) // classes
    grid = lengths[: rows * classes].reshape(rows, classes)
    turned = np.empty((classes, rows), dtype=lengths.dtype)
    for first in range(0, rows, _ROWS):
        turned[:, first : first + _ROWS] = grid[first : first + _ROWS].T
    last_row = lengths[rows * classes :]
    return np.insert(turned.reshape(-1), np.arange(1, len(last_row) + 1) * rows, last_row)


def first_documents(documents: int, classes: int) -> Int64s:
    """Where each class begins among ``documents`` laid class after class, int64 [classes]."""
    rows, longer = divmod(documents, classes)
    number = np.arange(classes)
    return number * rows + np.minimum(number, longer)


def selected_datasets(source: TokenSource, phase: DataPhase) -> list[tuple[str, str]]:
    """(source, language) of the phase, sorted: its sources table and its language list applied to the store.

    Raises:
        UserError: a name the store does not have.
    """
    names = sorted((group.source, group.language) for group in source.datasets)
    for kind, wanted, has in (
        ("source", phase.sources, {name for name, _ in names}),
        ("source", phase.tempered, {name for name, _ in names}),
        ("language", phase.languages, {language for _, language in names}),
    ):
        for name in wanted or ():
            if name not in has:
                raise UserError(f"phase {phase.name!r}: the data has no {kind} {name!r}{nearest(name, has)}")
    return [
        (of, language)
        for of, language in names
        if (phase.sources is None or of in phase.sources) and (phase.languages is None or language in phase.languages)
    ]
