"""The carry-over: what earlier phases left of stripes that they had begun, cut as in those phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.data.sampling.examples import Int64s, count_examples, max_sample_ids
from megatron_mmbert.data.sampling.settings import ResumePoint
from megatron_mmbert.utils.counter_rng import U64


class Samples(NamedTuple):
    """N samples: their ``dataset``, index ``sample`` in it, ``document`` of the stripe, and ids; int64 [N] each."""

    dataset: Int64s
    sample: Int64s
    document: Int64s
    start: Int64s
    stop: Int64s


class CarryOver:
    """The begun stripes of some datasets, all cut at the same ``max_length``."""

    def __init__(
        self,
        datasets: Sequence[int],
        points: Sequence[ResumePoint],
        keys: Sequence[int],
        lengths: Sequence[npt.NDArray[Any]],
        max_length: int,
    ) -> None:
        """Sort the stripes as the phase that began them did.

        Args:
            datasets: index of each dataset.
            points: how far it was read; all of one ``max_length``.
            keys: key of the order of its begun stripe.
            lengths: ids per document of its begun stripe.
            max_length: of the phase that reads the carry-over.
        """
        self._max_ids = max_sample_ids(max_length)
        self._max_parts = -(-max_sample_ids(points[0].max_length) // self._max_ids)
        begun_length = points[0].max_length
        self._examples = np.array([count_examples(each, begun_length) for each in lengths], dtype=np.int64)
        self._first_example = np.cumsum(self._examples) - self._examples
        documents = np.array([len(each) for each in lengths], dtype=np.int64)
        self._table = LengthSorted(np.concatenate(lengths), np.cumsum(documents) - documents, begun_length)
        self._datasets = np.array(datasets, dtype=np.int64)
        self._read = np.array([point.example for point in points], dtype=np.int64)
        self._keys: U64 = np.array(keys, dtype=np.uint64)
        self._samples = (self._examples - self._read) * self._max_parts

    def samples(self, first: Int64s, stop: Int64s) -> Samples:
        """Return those of the samples ``first`` ... ``stop`` - 1 (int64 [all datasets]) that are carried over."""
        low = np.minimum(first[self._datasets], self._samples)
        counts = np.minimum(stop[self._datasets], self._samples) - low
        stripe = np.repeat(np.arange(len(counts)), counts)
        sample = np.arange(len(stripe)) - (np.cumsum(counts) - counts - low)[stripe]
        index, part = sample // self._max_parts, sample % self._max_parts
        example = stratified_permutation(self._read[stripe] + index, self._examples, self._keys, counts)
        stripes = np.arange(len(counts))
        document, start, end = self._table.locate(self._first_example[stripe] + example, stripes, counts)
        # An example that is too long for this phase is cut once more, into as many parts as it needs.
        ids = end - start
        parts = -(-ids // self._max_ids)
        used = part < parts
        start, end = start + part * ids // parts, start + (part + 1) * ids // parts
        return Samples(*(array[used] for array in (self._datasets[stripe], sample, document, start, end)))
