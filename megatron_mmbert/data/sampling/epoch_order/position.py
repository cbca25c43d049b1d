"""The samples that each dataset has given before any block, and its epoch position there: arithmetic alone.

With U_i(m) the tokens that dataset i is to give before block m, and phi_i in [0, 1) a keyed offset, it has given
S_i(m) = floor(samples(U_i(m)) + phi_i) samples. A phase counts a dataset's samples from 0 at its own start. Where an
earlier phase stopped in the middle of a stripe and the order of examples has changed since (another ``max_length``),
the first R samples are the carry-over: what is left of that stripe, as the earlier phase cut it, counted with its own
mean length; then comes the next stripe, cut for this phase. An example of the carry-over that is too long for this
phase gives as many samples as the longest may need, so that R is known without looking at the examples; those that a
shorter one does not need are left out later.

U_i is linear inside a stage of one temperature: base + blocks x tokens per block. Its float64 inputs come from decimal
logarithms and exact sums (``weights``), and IEEE arithmetic rounds the same everywhere and monotonically, so all
machines agree on every block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.sampling.epoch_order.epochs import Epochs, Runs
from megatron_mmbert.data.sampling.epoch_order.stripes import Stripes
from megatron_mmbert.data.sampling.examples import max_sample_ids
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint
from megatron_mmbert.data.sampling.weights import Float64s, Int64s, WeightTable, weight_table
from megatron_mmbert.utils.counter_rng import hash64, key64, string_key, to_unit

_OFFSET = 1  # separates this use of a dataset's key from the mixture's
_ORDER_VERSION = 4  # raise it with any change that gives another order: checkpoints of the old one are then refused


def dataset_key(name: tuple[str, str], seed: int) -> int:
    """Return the 64-bit key of a (source, language)."""
    return key64(seed, string_key("/".join(name)))


@dataclass(frozen=True)
class PhaseStart:
    """The start of a phase in the epochs of each dataset; all arrays [datasets].

    Attributes:
        index: int64, of the first example after the carry-over, through the dataset's epochs.
        tokens: float64, before that example.
        carried_samples: int64, R.
        samples_per_example: int64, samples that an example of the carry-over gives at most.
        carried_mean: float64, mean tokens of the carry-over's samples.
        carried_tokens: float64, tokens of the carry-over.
        has_carry_over: whether any dataset has one.
    """

    index: Int64s
    tokens: Float64s
    carried_samples: Int64s
    samples_per_example: Int64s
    carried_mean: Float64s
    carried_tokens: Float64s
    has_carry_over: bool


def phase_start(epochs: Epochs, points: Sequence[ResumePoint | None], max_length: int) -> PhaseStart:
    """Return where a phase of ``max_length`` begins in each dataset, from where earlier phases have stopped in it."""
    stripes = epochs.stripes
    begun = stripes.begun_examples
    max_ids = max_sample_ids(max_length)
    parts = [1 if p is None else -(-max_sample_ids(p.max_length) // max_ids) for p in points]
    read = np.array([0 if p is None else p.example for p in points], dtype=np.int64)
    samples_per_example = np.where(begun > 0, np.array(parts, dtype=np.int64), 1)
    carried_samples = np.maximum(begun - read, 0) * samples_per_example
    epoch = np.array([0 if p is None else p.epoch for p in points], dtype=np.int64)
    stripe = stripes.first_stripe + np.array([0 if p is None else p.stripe for p in points], dtype=np.int64)
    in_stripe = np.where(begun > 0, stripes.stripe_examples[stripe], read)
    index = epoch * epochs.examples + epochs.stripe_start(stripe) + in_stripe
    # Cut once more the carry-over has more special tokens: as many as this phase's own cut of the stripe.
    cut = np.where(samples_per_example > 1, stripes.stripe_examples[stripe], begun)
    tokens = stripes.stripe_tokens[stripe] + SPECIAL_TOKENS_PER_SAMPLE * np.maximum(cut, begun)
    carried_mean = np.where(begun > 0, tokens / np.maximum(begun * samples_per_example, 1), epochs.mean)
    return PhaseStart(
        index=index,
        tokens=epochs.tokens_before(index),
        carried_samples=carried_samples,
        samples_per_example=samples_per_example,
        carried_mean=carried_mean,
        carried_tokens=carried_samples * carried_mean,
        has_carry_over=bool(carried_samples.any()),
    )


class EpochPosition:
    """The position of a phase in the epochs of its datasets, before any block.

    Attributes:
        epochs: the endless sequence of examples of each dataset.
        start: where the phase begins in it.
        weights: sampling weights by stage.
    """

    def __init__(self, stripes: Stripes, phase: DataPhase) -> None:
        """Compute the weights and the start.

        Raises:
            UserError: as ``weight_table``.
        """
        self._phase = phase
        self._points = [phase.resume_points.get(name) for name in stripes.names]
        self.epochs = Epochs(stripes)
        self.start = phase_start(self.epochs, self._points, phase.max_length)
        whole = np.inf if phase.max_epochs is None else phase.max_epochs
        max_samples = np.floor(whole * self.epochs.examples)
        max_tokens = max_samples * self.epochs.mean
        self.weights: WeightTable = weight_table(stripes.names, stripes.tokens, max_tokens, phase)
        if self.start.has_carry_over and phase.max_epochs is not None:
            carried = self.start.carried_samples > 0
            max_samples = np.where(carried, np.floor(self.samples_in(max_tokens)), max_samples)
        self._max_samples = max_samples
        # After the phase's end the datasets under their cap continue, so that packs never run out.
        self._max_samples_after = np.where(self.weights.capped, max_samples, np.inf)
        key = np.array([dataset_key(name, phase.seed) for name in stripes.names], dtype=np.uint64)
        self._offset = to_unit(hash64(key, _OFFSET))
        self._per_block = self.weights.weight * float(phase.tokens_per_block)
        self._base = self._stage_bases()

    def _stage_bases(self) -> Float64s:
        """Return float64 [stages, datasets]: U at the first block of each stage."""
        bases = [np.zeros(len(self._points))]
        for stage, blocks in enumerate(np.diff(self.weights.first_block)):
            bases.append(bases[-1] + float(blocks) * self._per_block[stage])
        return np.stack(bases)

    def samples_in(self, tokens: Float64s) -> Float64s:
        """Return how many samples make up so many tokens of each dataset from the phase's start, float64 [datasets]."""
        start = self.start
        if not start.has_carry_over:
            return self.epochs.index_after(start.tokens + tokens) - start.index
        carried = np.minimum(tokens / start.carried_mean, start.carried_samples)
        tokens_after = np.maximum(tokens - start.carried_tokens, 0.0)
        samples_after = self.epochs.index_after(start.tokens + tokens_after) - start.index
        return np.where(tokens < start.carried_tokens, carried, start.carried_samples + samples_after)

    def tokens_in(self, samples: Int64s) -> Float64s:
        """Return the tokens that the first ``samples`` int64 [datasets] hold on average, float64 [datasets]."""
        start = self.start
        carried = np.minimum(samples, start.carried_samples)
        tokens_after = self.epochs.tokens_before(start.index + samples - carried) - start.tokens
        return carried * start.carried_mean + tokens_after

    def samples_before(self, block: int) -> Int64s:
        """Return the samples of each dataset before ``block``, int64 [datasets]."""
        stage = self.weights.stage_of(block)
        tokens = self._base[stage] + float(block - self.weights.first_block[stage]) * self._per_block[stage]
        whole_blocks = self._phase.tokens // self._phase.tokens_per_block
        max_samples = self._max_samples if block <= whole_blocks else self._max_samples_after
        return np.minimum(np.floor(self.samples_in(tokens) + self._offset), max_samples).astype(np.int64)

    def runs(self, first: Int64s, stop: Int64s) -> Runs:
        """Return the samples ``first`` ... ``stop`` - 1 of each dataset (int64 [datasets]) after the carry-over."""
        start = self.start
        low = start.index + np.maximum(first - start.carried_samples, 0)
        high = start.index + np.maximum(stop - start.carried_samples, 0)
        return self.epochs.runs(low, high, start.index - start.carried_samples)

    def resume_points_at(self, block: int) -> dict[tuple[str, str], ResumePoint]:
        """Return the epoch position of each dataset before ``block``."""
        start, phase = self.start, self._phase
        samples = self.samples_before(block)
        read = -(-samples // start.samples_per_example)  # one of several parts makes the example a read one
        is_after = samples >= start.carried_samples
        located = self.epochs.locate(start.index + samples - start.carried_samples)
        epoch, stripe, example = (column.tolist() for column in located)
        points = {}
        for i, name in enumerate(self.epochs.stripes.names):
            before = self._points[i]
            if is_after[i] or before is None:
                points[name] = ResumePoint(epoch[i], stripe[i], example[i], phase.max_length, phase.seed)
            else:
                points[name] = before._replace(example=before.example + int(read[i]))
        return points

    def epochs_in(self, samples: Int64s) -> Float64s:
        """Return how often each dataset's text is passed over by ``samples`` int64 [datasets], float64 [datasets]."""
        return self.tokens_in(samples) / (self.epochs.mean * self.epochs.examples)

    def fingerprint(self) -> str:
        """Return the hex digest of all that fixes the order of packs.

        A resumed run must have the one it was stopped with. Names of classes and fields are not part of it.
        """
        phase, stripes = self._phase, self.epochs.stripes
        digest = hashlib.blake2b(digest_size=16)
        fixed = (
            _ORDER_VERSION,
            stripes.names,
            phase.tokens_per_block,
            phase.max_length,
            phase.pack_tokens,
            phase.seed,
        )
        digest.update(repr((*fixed, [point and tuple(point) for point in self._points])).encode())
        for array in (
            stripes.stripe_tokens,
            stripes.stripe_examples,
            stripes.stripes,
            self.weights.first_block,
            self._base,
            self._per_block,
            self._max_samples_after,
        ):
            digest.update(array.tobytes())
        return digest.hexdigest()
