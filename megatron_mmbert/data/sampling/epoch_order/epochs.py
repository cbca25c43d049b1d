"""The epochs of every dataset laid one after another without end: which example is where, and the tokens before it.

An *index* here counts the examples of a dataset through all its epochs, each epoch stripe by stripe. Within a stripe
samples count with the stripe's mean length, so tokens are met exactly wherever a stripe ends.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.sampling.epoch_order.stripes import Stripes
from megatron_mmbert.data.sampling.weights import Float64s, Int64s


class Runs(NamedTuple):
    """Consecutive samples of one stripe in one epoch each, int64 [runs].

    Attributes:
        dataset, epoch, stripe: index of the dataset, of its epoch, and of the stripe among those of all datasets.
        example, size: first example, in the stripe's order, and how many.
        sample: index of the first among the samples of its dataset.
    """

    dataset: Int64s
    epoch: Int64s
    stripe: Int64s
    example: Int64s
    size: Int64s
    sample: Int64s


class Epochs:
    """The endless sequence of examples of each dataset, for a phase's ``max_length``.

    Attributes:
        stripes: the stripes of all datasets.
        examples: int64 [datasets], examples of one epoch.
        mean: float64 [datasets], mean tokens of a sample, special tokens included.
    """

    def __init__(self, stripes: Stripes) -> None:
        self.stripes = stripes
        self.examples, self._first_example = stripes.examples, stripes.first_example
        self.mean = (stripes.tokens + SPECIAL_TOKENS_PER_SAMPLE * self.examples) / self.examples
        tokens = (stripes.stripe_tokens + SPECIAL_TOKENS_PER_SAMPLE * stripes.stripe_examples).astype(np.float64)
        self._stripe_begin = np.cumsum(tokens) - tokens  # tokens of all stripes before
        self._stripe_mean = tokens / np.maximum(stripes.stripe_examples, 1)
        self._dataset_begin = self._stripe_begin[stripes.first_stripe]
        self._epoch_tokens = np.add.reduceat(tokens, stripes.first_stripe)
        self._last_stripe = stripes.first_stripe + stripes.stripes - 1
        self._striped = np.flatnonzero(stripes.stripes > 1)  # datasets of several stripes

    def index_after(self, tokens: Float64s) -> Float64s:
        """Return how many examples of each dataset hold so many tokens, float64 [datasets]; never falls with more."""
        epoch = np.floor(tokens / self._epoch_tokens)
        within = np.maximum(tokens - epoch * self._epoch_tokens, 0.0)
        stripe = self.stripes.first_stripe.copy()
        some = self._striped
        candidate = np.searchsorted(self._stripe_begin, self._dataset_begin[some] + within[some], side="right") - 1
        stripe[some] = np.minimum(candidate, self._last_stripe[some])
        within = np.maximum(within - (self._stripe_begin[stripe] - self._dataset_begin), 0.0)
        example = np.minimum(within / self._stripe_mean[stripe], self.stripes.stripe_examples[stripe])
        return epoch * self.examples + self.stripe_start(stripe) + example

    def tokens_before(self, index: Int64s) -> Float64s:
        """Return the tokens of the first ``index`` examples (int64 [datasets]) of each dataset, float64 [datasets]."""
        epoch, stripe, example = self.locate(index)
        stripe += self.stripes.first_stripe
        begin = epoch * self._epoch_tokens + (self._stripe_begin[stripe] - self._dataset_begin)
        return begin + example * self._stripe_mean[stripe]

    def stripe_start(self, stripe: Int64s) -> Int64s:
        """Return the examples of an epoch before ``stripe`` (one of each dataset, among all), int64 [datasets]."""
        return self.stripes.stripe_start[stripe] - self._first_example

    def locate(self, index: Int64s) -> tuple[Int64s, Int64s, Int64s]:
        """Return (epoch, stripe of the dataset, example in its order) of an index of each dataset, int64 [datasets]."""
        epoch, stripe = self._epoch_and_stripe(np.arange(len(index)), index)
        start = self.stripe_start(self.stripes.first_stripe + stripe)
        return epoch, stripe, index - epoch * self.examples - start

    def _epoch_and_stripe(self, dataset: Int64s, index: Int64s) -> tuple[Int64s, Int64s]:
        """Return (epoch, stripe of the dataset) of indices in the epochs of datasets, all int64 [N]."""
        epoch = index // self.examples[dataset]
        example = self._first_example[dataset] + index - epoch * self.examples[dataset]
        # From the right: stripes without an example begin where the next one does.
        stripe = np.searchsorted(self.stripes.stripe_start, example, side="right") - 1
        return epoch, stripe - self.stripes.first_stripe[dataset]

    def runs(self, first: Int64s, stop: Int64s, origin: Int64s) -> Runs:
        """Return the examples with indices ``first`` ... ``stop`` - 1 of each dataset, by epoch and stripe.

        Args:
            first, stop: int64 [datasets].
            origin: int64 [datasets], index of sample 0; negative where other samples come before.
        """
        stripes = self.stripes
        dataset = np.flatnonzero(stop > first)
        low, high = first[dataset], stop[dataset]
        low_epoch, low_stripe = self._epoch_and_stripe(dataset, low)
        high_epoch, high_stripe = self._epoch_and_stripe(dataset, high - 1)
        count = stripes.stripes[dataset]
        # Stripes counted through the epochs: those from the first to the last sample's make one run each.
        begin = low_epoch * count + low_stripe
        runs = high_epoch * count + high_stripe - begin + 1
        each = np.repeat(np.arange(len(dataset)), runs)
        counted = np.arange(len(each)) - (np.cumsum(runs) - runs - begin)[each]
        low, high, dataset = low[each], high[each], dataset[each]
        epoch = counted // count[each]
        stripe = stripes.first_stripe[dataset] + counted - epoch * count[each]
        start = epoch * self.examples[dataset] + stripes.stripe_start[stripe] - self._first_example[dataset]
        low = np.maximum(low, start)
        size = np.minimum(high, start + stripes.stripe_examples[stripe]) - low
        return Runs(dataset, epoch, stripe, low - start, size, low - origin[dataset])
