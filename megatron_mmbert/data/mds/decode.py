"""Samples of an MDS shard to token ids, all of a block at once; what is not as it says is reported by sample."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.mds.columns import TYPE_CODES, Columns, IdColumn

Int64s = npt.NDArray[np.int64]
Report = Callable[[int, str], None]
"""Called with the place of a sample in its block and the reason why it gives no ids."""


class SampleIds(NamedTuple):
    """The ids of some samples.

    Attributes:
        ids: end to end, [ids] in the dtype that was asked for.
        lengths: int64 [samples], none of them 0.
        places: the place of each sample in its block, int64 [samples], ascending.
    """

    ids: npt.NDArray[Any]
    lengths: Int64s
    places: Int64s


class _Values(NamedTuple):
    """The bytes from and to which the ids of samples lie, int64 [samples] each, and each one's place in its block."""

    starts: Int64s
    stops: Int64s
    places: Int64s

    def take(self, chosen: npt.NDArray[Any]) -> _Values:
        return _Values(self.starts[chosen], self.stops[chosen], self.places[chosen])


def decode_ids(
    content: npt.NDArray[np.uint8],
    offsets: Int64s,
    columns: Columns,
    column: IdColumn,
    vocab_size: int,
    dtype: str,
    report: Report,
) -> SampleIds:
    """Return the ids of the samples in ``content``, uint8 [bytes], as ``dtype``.

    Args:
        offsets: where each sample begins in ``content``, and where the last ends, int64 [samples + 1].
        vocab_size: ids lie below it.
        report: is told of samples that are left out: damaged ones, empty ones, ids outside the vocabulary.
    """
    values = _find_column(content, offsets, columns, column, report)
    parts = [
        _read_values(content, some, np.dtype(kind).newbyteorder("<"), vocab_size, dtype, report)
        for kind, some in _by_type(content, values, column, report)
    ]
    if not parts:
        return SampleIds(np.empty(0, dtype), *(np.empty(0, np.int64) for _ in range(2)))
    return SampleIds(*(np.concatenate(each) for each in zip(*parts, strict=True)))


def _find_column(
    content: npt.NDArray[np.uint8], offsets: Int64s, columns: Columns, column: IdColumn, report: Report
) -> _Values:
    """Return where the values of the ids' column lie in samples whose lengths add up."""
    starts, lengths = offsets[:-1], np.diff(offsets)
    places = np.arange(starts.size)
    fit = lengths >= columns.head_bytes + columns.fixed_bytes
    _report(report, places[~fit], "too short for its columns")
    starts, lengths, places = starts[fit], lengths[fit], places[fit]
    head = content[starts[:, None] + np.arange(columns.head_bytes)]
    variable = np.ascontiguousarray(head).view("<u4").astype(np.int64).reshape(starts.size, -1)
    fit = columns.head_bytes + columns.fixed_bytes + variable.sum(axis=1) == lengths
    _report(report, places[~fit], "its columns are not as long as it is")
    starts, variable, places = starts[fit], variable[fit], places[fit]
    begins = starts + columns.head_bytes
    next_variable = 0
    for index, size in enumerate(columns.sizes):
        width = size if size is not None else variable[:, next_variable]
        if index == column.place:
            return _Values(begins, begins + width, places)
        begins = begins + width
        next_variable += size is None
    raise AssertionError("the column is one of the columns")


def _by_type(
    content: npt.NDArray[np.uint8], values: _Values, column: IdColumn, report: Report
) -> Iterator[tuple[str, _Values]]:
    """Yield runs of samples whose ids are of one type, with the bytes of the ids alone."""
    if column.type is not None:
        yield column.type, _without_shape(content, values, column.type, report) if column.has_shape else values
        return
    values = _of_min_size(values, 1, report)
    codes = content[values.starts]
    values = values._replace(starts=values.starts + 1)
    known = np.isin(codes, list(TYPE_CODES))
    _report(report, values.places[~known], "its ids are of no type of whole numbers")
    values, codes = values.take(known), codes[known]
    cuts = np.flatnonzero(np.diff(codes)) + 1
    for run in np.split(np.arange(codes.size), cuts):
        if run.size:
            kind = TYPE_CODES[int(codes[run[0]])]
            some = values.take(run)
            yield kind, _without_shape(content, some, kind, report) if column.has_shape else some


def _without_shape(content: npt.NDArray[np.uint8], values: _Values, kind: str, report: Report) -> _Values:
    """Return the values without the shape before them, which must be one number and the right one."""
    values = _of_min_size(values, 2, report)
    marks = content[values.starts]
    one = marks >> 2 == 1
    _report(report, values.places[~one], "its ids have not one dimension")
    values, marks = values.take(one), marks[one]
    widths = 1 << (marks & 3).astype(np.int64)
    whole = values.stops - values.starts > widths
    _report(report, values.places[~whole], "its ids are not as many as it says")
    values, widths = values.take(whole), widths[whole]
    said = np.zeros((widths.size, 8), np.uint8)
    for width in np.unique(widths).tolist():
        of_width = widths == width
        said[of_width, :width] = content[values.starts[of_width, None] + 1 + np.arange(width)]
    starts = values.starts + 1 + widths
    sizes = (values.stops - starts).astype(np.uint64)
    item = np.uint64(np.dtype(kind).itemsize)
    right = (said.view("<u8").reshape(-1) == sizes // item) & (sizes % item == 0)
    _report(report, values.places[~right], "its ids are not as many as it says")
    return values._replace(starts=starts).take(right)


def _of_min_size(values: _Values, size: int, report: Report) -> _Values:
    enough = values.stops - values.starts >= size
    _report(report, values.places[~enough], "no ids in it")
    return values.take(enough)


def _read_values(
    content: npt.NDArray[np.uint8], values: _Values, kind: np.dtype[Any], vocab_size: int, dtype: str, report: Report
) -> SampleIds:
    """Return the ids of samples that hold whole ones of the vocabulary."""
    sizes = values.stops - values.starts
    whole = (sizes > 0) & (sizes % kind.itemsize == 0)
    _report(report, values.places[~whole], "no ids in it, or a part of one")
    values, lengths = values.take(whole), sizes[whole] // kind.itemsize
    spans = zip(values.starts.tolist(), values.stops.tolist(), strict=True)
    joined = np.concatenate([np.empty(0, np.uint8), *(content[start:stop] for start, stop in spans)])
    ids = joined.view(kind)
    if ids.size and not (0 <= int(ids.min()) and int(ids.max()) < vocab_size):
        ids, lengths, values = _without_foreign(ids, lengths, values, vocab_size, report)
    return SampleIds(ids.astype(dtype), lengths, values.places)


def _without_foreign(
    ids: npt.NDArray[Any], lengths: Int64s, values: _Values, vocab_size: int, report: Report
) -> tuple[npt.NDArray[Any], Int64s, _Values]:
    """Leave out samples with ids outside the vocabulary."""
    foreign = np.flatnonzero((ids >= vocab_size) | (ids < 0))
    samples, first = np.unique(np.searchsorted(np.cumsum(lengths), foreign, side="right"), return_index=True)
    for sample, at in zip(samples.tolist(), first.tolist(), strict=True):
        value = int(ids[foreign[at]])
        report(int(values.places[sample]), f"id {value} is outside the vocabulary of {vocab_size}; pass its tokenizer")
    kept = np.ones(lengths.size, bool)
    kept[samples] = False
    return ids[np.repeat(kept, lengths)], lengths[kept], values.take(kept)


def _report(report: Report, places: Int64s, reason: str) -> None:
    for place in places.tolist():
        report(place, reason)
