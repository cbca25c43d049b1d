"""Which pieces make up block m: computed from (settings, seed, m), with no index and no state.

A *block* is the unit of mixture, shuffling and packing. With S_i(m) the number of samples of group i in the blocks
before m (``course``), block m holds the samples S_i(m) ... S_i(m + 1) - 1 of every group. The counts telescope, so
shares are exact to one sample over any range, every block is reached in O(groups), and keyed offsets spread languages
rarer than one sample per block evenly over the blocks. Consecutive samples of a group lie in one class of its documents
(``classes``), in an order keyed by (seed, source, language, epoch, class) that mixes lengths evenly (``strata``): each
piece once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.constants import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.sampling.epoch_order.carry_over import CarryOver, Samples
from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.data.sampling.epoch_order.position import EpochPosition, group_key
from megatron_mmbert.data.sampling.epoch_order.stripes import divide_into_stripes
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint, TokenSource
from megatron_mmbert.data.sampling.weights import Float64s, Int64s
from megatron_mmbert.utils.counter_rng import U64, hash64, hash_on, keyed_order

_EPOCH, _SAMPLE = 2, 3  # separate the uses of a group's key


@dataclass(frozen=True)
class Block:
    """N samples in shuffled order.

    Attributes:
        group: int32 [N], position in ``Mixture.names``.
        document: int64 [N], number in the group.
        start, stop: integers [N], ids of the document.
        sample_key: uint64 [N], unlike for every sample of every epoch of every group.
    """

    group: npt.NDArray[np.int32]
    document: Int64s
    start: npt.NDArray[Any]
    stop: npt.NDArray[Any]
    sample_key: U64

    @property
    def lengths(self) -> Int64s:
        """int64 [N], tokens of each sample with its specials."""
        return self.stop.astype(np.int64) - self.start + SPECIAL_TOKENS_PER_SAMPLE


@dataclass(frozen=True)
class DatasetTotals:
    """What a phase takes from one group: share of the phase, tokens (with specials), samples, epochs."""

    source: str
    language: str
    share: float
    tokens: float
    samples: float
    epochs: float
    capped: bool


class MixtureTotals:
    """A phase's mixture in numbers: what each group gives, not yet which pieces.

    Attributes:
        names: (source, language) of every group with text, sorted.
        tokens, pieces: int64 [groups].
        block_tokens: expected tokens of a block.
        course: how many samples each group has given before any block.
    """

    def __init__(self, source: TokenSource, phase: DataPhase) -> None:
        """Reads the lengths of all documents once.

        Raises:
            UserError: an unknown source or language, no text, or epoch caps below the phase's tokens.
        """
        self.phase = phase
        self.block_tokens = phase.tokens_per_block
        self._division, self._lengths = divide_into_stripes(source, phase)
        self.names, self.tokens, self.pieces = self._division.names, self._division.tokens, self._division.pieces
        self.course = EpochPosition(self._division, phase)

    @property
    def mean_lengths(self) -> Float64s:
        """Mean tokens of a sample, with its specials, float64 [groups]."""
        return self.course.mean

    def samples_before(self, block: int) -> Int64s:
        """Samples of each group before ``block``, int64 [groups]."""
        return self.course.samples_before(block)

    def temperature_at(self, tokens: int) -> float:
        """tau in force after ``tokens`` of the phase (the value of its stage)."""
        shares = self.course.shares
        return float(shares.temperature[shares.stage_of(tokens // self.block_tokens)])

    def shares_at(self, tokens: int) -> Float64s:
        """Token shares in force after ``tokens`` of the phase, float64 [groups]."""
        shares = self.course.shares
        return shares.share[shares.stage_of(tokens // self.block_tokens)]

    def expected(self) -> list[DatasetTotals]:
        """What the whole phase takes from every group, in the order of ``names``."""
        shares = self.course.shares
        tokens = (shares.stage_tokens[:, None] * shares.share).sum(axis=0)
        samples = self.course.samples_in(tokens)
        epochs = tokens / (self.course.mean * self.pieces)
        rows = zip(self.names, tokens, samples, epochs, shares.capped, strict=True)
        return [
            DatasetTotals(*name, float(t / self.phase.tokens), float(t), float(s), float(e), bool(c))
            for name, t, s, e, c in rows
        ]

    def fingerprint(self) -> str:
        """Hex digest of all that fixes the order of packs; a resumed run must have the one it was stopped with."""
        return self.course.fingerprint()


class Mixture(MixtureTotals):
    """The samples of a phase, by block."""

    def __init__(self, source: TokenSource, phase: DataPhase) -> None:
        """As :class:`MixtureTotals`; takes about 5.5 bytes per document."""
        super().__init__(source, phase)
        key = np.array([group_key(name, phase.seed) for name in self.names], dtype=np.uint64)
        self._epoch_state, self._sample_state = hash64(key, _EPOCH), hash64(key, _SAMPLE)
        self._first_document = self._division.first_document
        self._rests = list(self._read_rests())
        # One table over all groups: a block then needs one search, not one for each of a thousand languages.
        self._table = LengthSorted(self._lengths, self._first_document, phase.max_length)

    def _read_rests(self) -> Iterator[CarryOver]:
        """What earlier phases left of classes, by the length of samples that they are cut to."""
        groups = np.flatnonzero(self.course.rest_samples).tolist()
        places = {number: self.phase.places[self.names[number]] for number in groups}
        for cut in sorted({place.max_length for place in places.values()}):
            chosen = [number for number in groups if places[number].max_length == cut]
            keys = [self._class_key(number, places[number]) for number in chosen]
            parts = [self._class_lengths(number, places[number].number) for number in chosen]
            yield CarryOver(chosen, [places[number] for number in chosen], keys, parts, self.phase.max_length)

    def _class_key(self, group: int, place: ResumePoint) -> int:
        """Key of the order of the class in progress, in the phase that began it."""
        state = hash64(group_key(self.names[group], place.seed), _EPOCH)
        return int(hash_on(hash_on(state, place.epoch), place.number))

    def _class_lengths(self, group: int, number: int) -> npt.NDArray[Any]:
        row = int(self._division.first_class[group]) + number
        ends = [*self._first_document[1:].tolist(), len(self._lengths)]
        return self._lengths[int(self._first_document[row]) : ends[row]]

    def block(self, number: int) -> Block:
        """Block ``number`` (from 0), the same whatever was asked before."""
        first, stop = self.samples_before(number), self.samples_before(number + 1)
        parts = [self._steady(first, stop)]
        if self._rests and (first < self.course.rest_samples).any():
            parts += [self._of_rest(rest.samples(first, stop)) for rest in self._rests]
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = keyed_order(columns[-1])
        return Block(*(column.take(order) for column in columns))

    def _steady(self, first: Int64s, stop: Int64s) -> tuple[Any, ...]:
        """Columns of the samples in this phase's own cut, group after group."""
        division, runs = self._division, self.course.runs(first, stop)
        counts = runs.size
        of_class = runs.row - division.first_class[runs.group]
        key = hash_on(hash_on(self._epoch_state[runs.group], runs.epoch), of_class)
        place = np.arange(int(counts.sum()))
        before = np.cumsum(counts) - counts
        piece = stratified_permutation(
            place - np.repeat(before - runs.piece, counts), division.class_pieces[runs.row], key, counts
        )
        piece += np.repeat(division.class_start[runs.row], counts)
        document, start, end = self._table.locate(piece, runs.row, counts)
        # Document j of class c of C is number c + C j of the group.
        stride = division.classes[runs.group]
        document *= np.repeat(stride, counts)
        document += np.repeat(of_class, counts)
        sample_key = hash_on(
            np.repeat(self._sample_state[runs.group], counts), place - np.repeat(before - runs.sample, counts)
        )
        return np.repeat(runs.group.astype(np.int32), counts), document, start, end, sample_key

    def _of_rest(self, samples: Samples) -> tuple[Any, ...]:
        """The same columns of samples from the rest of a class."""
        number = np.array([self.phase.places[name].number if name in self.phase.places else 0 for name in self.names])
        document = samples.document * self._division.classes[samples.group] + number[samples.group]
        key = hash_on(self._sample_state[samples.group], samples.sample)
        return samples.group.astype(np.int32), document, samples.start, samples.stop, key
