"""The samples of mixture block m: computed from (settings, seed, m), with no index and no state.

A *block* is the unit of mixture, shuffling and packing. With S_i(m) the number of samples of dataset i in the blocks
before m (``epoch_order/position.py``), block m holds the samples S_i(m) ... S_i(m + 1) - 1 of every dataset. The counts
telescope, so sampling weights are exact to one sample over any range, every block is reached in O(datasets), and keyed
offsets spread languages rarer than one sample per block evenly over the blocks. Consecutive samples of a dataset lie in
one stripe of its documents (``stripes.py``), in an order keyed by (seed, source, language, epoch, stripe) that mixes
lengths evenly (``length_strata.py``): each example once per epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.sampling.epoch_order.carry_over import CarryOver, Samples
from megatron_mmbert.data.sampling.epoch_order.length_strata import LengthSorted, stratified_permutation
from megatron_mmbert.data.sampling.epoch_order.position import EpochPosition, dataset_key
from megatron_mmbert.data.sampling.epoch_order.stripes import divide_into_stripes
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint, TokenSource
from megatron_mmbert.data.sampling.weights import Float64s, Int64s
from megatron_mmbert.utils.counter_rng import U64, hash64, hash_on, keyed_order

_EPOCH, _SAMPLE = 2, 3  # separate the uses of a dataset's key


@dataclass(frozen=True)
class Block:
    """N samples in shuffled order.

    Attributes:
        dataset: int32 [N], index in ``Mixture.names``.
        document: int64 [N], index in the dataset.
        start, stop: integers [N], the ids of the document that the sample holds.
        sample_key: uint64 [N], unlike for every sample of every epoch of every dataset.
    """

    dataset: npt.NDArray[np.int32]
    document: Int64s
    start: npt.NDArray[Any]
    stop: npt.NDArray[Any]
    sample_key: U64

    @property
    def lengths(self) -> Int64s:
        """int64 [N], tokens of each sample with its special tokens."""
        return self.stop.astype(np.int64) - self.start + SPECIAL_TOKENS_PER_SAMPLE


@dataclass(frozen=True)
class DatasetTotals:
    """The part of a phase that one dataset gives; the fields are the keys of a run's ``mixture.json``.

    Attributes:
        share: of the phase's tokens: the sampling weight averaged over the phase.
        tokens: special tokens included.
        capped: whether ``max_epochs`` bounds it.
    """

    source: str
    language: str
    share: float
    tokens: float
    samples: float
    epochs: float
    capped: bool


class MixtureTotals:
    """A phase's mixture in numbers: how much each dataset gives, not yet which examples.

    Attributes:
        position: how many samples each dataset has given before any block, and its epoch position there.
    """

    def __init__(self, source: TokenSource, phase: DataPhase) -> None:
        """Read the lengths of all documents once.

        Raises:
            UserError: an unknown source or language, no text, or epoch caps below the phase's tokens.
        """
        self.phase = phase
        self._stripes, self._lengths = divide_into_stripes(source, phase)
        self.position = EpochPosition(self._stripes, phase)

    @property
    def names(self) -> list[tuple[str, str]]:
        """(source, language) of every dataset with text, sorted."""
        return self._stripes.names

    @property
    def tokens(self) -> Int64s:
        """int64 [datasets], special tokens not included."""
        return self._stripes.tokens

    @property
    def examples(self) -> Int64s:
        """int64 [datasets], examples of one epoch."""
        return self.position.epochs.examples

    @property
    def block_tokens(self) -> int:
        """Expected tokens of a block."""
        return self.phase.tokens_per_block

    @property
    def mean_lengths(self) -> Float64s:
        """Mean tokens of a sample, special tokens included, float64 [datasets]."""
        return self.position.epochs.mean

    def samples_before(self, block: int) -> Int64s:
        """Return the samples of each dataset before ``block``, int64 [datasets]."""
        return self.position.samples_before(block)

    def temperature_at(self, tokens: int) -> float:
        """Return the tau in force after ``tokens`` of the phase (the value of its stage)."""
        weights = self.position.weights
        return float(weights.temperature[weights.stage_of(tokens // self.block_tokens)])

    def weights_at(self, tokens: int) -> Float64s:
        """Return the sampling weights in force after ``tokens`` of the phase, float64 [datasets]."""
        weights = self.position.weights
        return weights.weight[weights.stage_of(tokens // self.block_tokens)]

    def expected(self) -> list[DatasetTotals]:
        """Return how much the whole phase takes from every dataset, in the order of ``names``."""
        weights = self.position.weights
        tokens = (weights.stage_tokens[:, None] * weights.weight).sum(axis=0)
        samples = self.position.samples_in(tokens)
        epochs = tokens / (self.mean_lengths * self.examples)
        rows = zip(self.names, tokens, samples, epochs, weights.capped, strict=True)
        return [
            DatasetTotals(*name, float(t / self.phase.tokens), float(t), float(s), float(e), bool(c))
            for name, t, s, e, c in rows
        ]

    def fingerprint(self) -> str:
        """Return the hex digest of all that fixes the order of packs; see :meth:`EpochPosition.fingerprint`."""
        return self.position.fingerprint()


class Mixture(MixtureTotals):
    """The samples of a phase, by block."""

    def __init__(self, source: TokenSource, phase: DataPhase) -> None:
        """Sort all documents, as well as :class:`MixtureTotals`; takes about 5.5 bytes per document."""
        super().__init__(source, phase)
        key = np.array([dataset_key(name, phase.seed) for name in self.names], dtype=np.uint64)
        self._epoch_state, self._sample_state = hash64(key, _EPOCH), hash64(key, _SAMPLE)
        self._first_document = self._stripes.first_document
        self._carry_overs = list(self._read_carry_overs())
        # One table over all datasets: a block then needs one search, not one for each of a thousand languages.
        self._table = LengthSorted(self._lengths, self._first_document, phase.max_length)

    def _read_carry_overs(self) -> Iterator[CarryOver]:
        """Yield what earlier phases left of stripes, by the ``max_length`` that they cut it at."""
        datasets = np.flatnonzero(self.position.start.carried_samples).tolist()
        points = {dataset: self.phase.resume_points[self.names[dataset]] for dataset in datasets}
        for max_length in sorted({point.max_length for point in points.values()}):
            chosen = [dataset for dataset in datasets if points[dataset].max_length == max_length]
            keys = [self._stripe_key(dataset, points[dataset]) for dataset in chosen]
            lengths = [self._stripe_lengths(dataset, points[dataset].stripe) for dataset in chosen]
            yield CarryOver(chosen, [points[dataset] for dataset in chosen], keys, lengths, self.phase.max_length)

    def _stripe_key(self, dataset: int, point: ResumePoint) -> int:
        """Return the key of the order of the stripe in progress, in the phase that began it."""
        state = hash64(dataset_key(self.names[dataset], point.seed), _EPOCH)
        return int(hash_on(hash_on(state, point.epoch), point.stripe))

    def _stripe_lengths(self, dataset: int, stripe: int) -> npt.NDArray[Any]:
        index = int(self._stripes.first_stripe[dataset]) + stripe
        ends = [*self._first_document[1:].tolist(), len(self._lengths)]
        return self._lengths[int(self._first_document[index]) : ends[index]]

    def block(self, index: int) -> Block:
        """Return block ``index`` (from 0), the same whatever was asked before."""
        first, stop = self.samples_before(index), self.samples_before(index + 1)
        parts = [self._own_samples(first, stop)]
        if self._carry_overs and (first < self.position.start.carried_samples).any():
            parts += [self._carried_samples(each.samples(first, stop)) for each in self._carry_overs]
        columns = parts[0] if len(parts) == 1 else [np.concatenate(column) for column in zip(*parts, strict=True)]
        order = keyed_order(columns[-1])
        return Block(*(column.take(order) for column in columns))

    def _own_samples(self, first: Int64s, stop: Int64s) -> tuple[Any, ...]:
        """Return the columns of a block for the samples after the carry-over, dataset after dataset."""
        stripes, runs = self._stripes, self.position.runs(first, stop)
        counts = runs.size
        stripe = runs.stripe - stripes.first_stripe[runs.dataset]
        key = hash_on(hash_on(self._epoch_state[runs.dataset], runs.epoch), stripe)
        index = np.arange(int(counts.sum()))
        before = np.cumsum(counts) - counts
        example = stratified_permutation(
            index - np.repeat(before - runs.example, counts), stripes.stripe_examples[runs.stripe], key, counts
        )
        example += np.repeat(stripes.stripe_start[runs.stripe], counts)
        document, start, end = self._table.locate(example, runs.stripe, counts)
        # Document j of stripe c of C is document c + C j of the dataset.
        stride = stripes.stripes[runs.dataset]
        document *= np.repeat(stride, counts)
        document += np.repeat(stripe, counts)
        sample_key = hash_on(
            np.repeat(self._sample_state[runs.dataset], counts), index - np.repeat(before - runs.sample, counts)
        )
        return np.repeat(runs.dataset.astype(np.int32), counts), document, start, end, sample_key

    def _carried_samples(self, samples: Samples) -> tuple[Any, ...]:
        """Return the columns of a block for samples of the carry-over."""
        points = self.phase.resume_points
        stripe = np.array([points[name].stripe if name in points else 0 for name in self.names])
        document = samples.document * self._stripes.stripes[samples.dataset] + stripe[samples.dataset]
        key = hash_on(self._sample_state[samples.dataset], samples.sample)
        return samples.dataset.astype(np.int32), document, samples.start, samples.stop, key
