"""The rest of classes that earlier phases have begun, in the cut of those phases."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.data.sampling.examples import Int64s, count_examples, room_for_ids
from megatron_mmbert.data.sampling.settings import ResumePoint
from megatron_mmbert.utils.counter_rng import U64


class Samples(NamedTuple):
    """N samples: ``group`` number, ``sample`` number in it, ``document`` in the class, and its ids; int64 [N] each."""

    group: Int64s
    sample: Int64s
    document: Int64s
    start: Int64s
    stop: Int64s


class CarryOver:
    """The classes in progress of some groups, all in the cut of one length."""

    def __init__(
        self,
        groups: Sequence[int],
        places: Sequence[ResumePoint],
        keys: Sequence[int],
        lengths: Sequence[npt.NDArray[Any]],
        max_length: int,
    ) -> None:
        """For each group its number, the place reached, the key of its class's order and the lengths of its class.

        ``max_length``: of the phase that reads the rest.
        """
        self._room = room_for_ids(max_length)
        self._slots = -(-room_for_ids(places[0].max_length) // self._room)
        room = places[0].max_length
        self._pieces = np.array([count_examples(each, room) for each in lengths], dtype=np.int64)
        self._first_piece = np.cumsum(self._pieces) - self._pieces
        documents = np.array([len(each) for each in lengths], dtype=np.int64)
        self._table = LengthSorted(np.concatenate(lengths), np.cumsum(documents) - documents, room)
        self._groups = np.array(groups, dtype=np.int64)
        self._read = np.array([place.piece for place in places], dtype=np.int64)
        self._keys: U64 = np.array(keys, dtype=np.uint64)
        self._samples = (self._pieces - self._read) * self._slots

    def samples(self, first: Int64s, stop: Int64s) -> Samples:
        """Those of the samples ``first`` ... ``stop`` - 1 of each group (int64 [all groups]) that are of the rest."""
        low = np.minimum(first[self._groups], self._samples)
        counts = np.minimum(stop[self._groups], self._samples) - low
        of = np.repeat(np.arange(len(counts)), counts)
        sample = np.arange(len(of)) - (np.cumsum(counts) - counts - low)[of]
        place, slot = sample // self._slots, sample % self._slots
        piece = stratified_permutation(self._read[of] + place, self._pieces, self._keys, counts)
        classes = np.arange(len(counts))
        document, start, stop_ = self._table.locate(self._first_piece[of] + piece, classes, counts)
        # Too long a piece is cut once more; it takes the first of its slots.
        ids = stop_ - start
        parts = -(-ids // self._room)
        used = slot < parts
        start, stop_ = start + slot * ids // parts, start + (slot + 1) * ids // parts
        return Samples(*(array[used] for array in (self._groups[of], sample, document, start, stop_)))
