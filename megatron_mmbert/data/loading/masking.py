"""Choosing the scored positions of a pack and corrupting them 80/10/10.

All draws are elements of splitmix64 streams keyed by (seed, sample key) and counted by the position in the sample.
A sample key names one epoch's use of one example, so masks are fresh each epoch, and the same whatever the machine, the
rank, the number of workers or the moment. (Which positions of a sample pass the pack's threshold depends also on the
samples beside it: exactly K positions per pack are scored.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.config.data import MaskPolicy, MaskUnit
from megatron_mmbert.data.loading.masking_units import begins_span, begins_word, choose_units
from megatron_mmbert.data.sampling.settings import TokenizerIds
from megatron_mmbert.utils.counter_rng import U64, hash64, hash_on, stream64, to_below, to_unit

Int64s = npt.NDArray[np.int64]

_CHOICE, _RANDOM_ID, _UNIT, _EDGE = 1, 2, 3, 4
_MASKED_BELOW, _RANDOM_BELOW = 0.8, 0.9


@dataclass(frozen=True)
class MaskedPack:
    """A pack after masking.

    Attributes:
        tokens_T: int64 [T], ids after corruption.
        masked_index_K: int64 [K], scored positions, ascending, padded with 0.
        label_K: int64 [K], original ids; ``IGNORED_LABEL`` where ``masked_index_K`` is padding.
    """

    tokens_T: Int64s
    masked_index_K: Int64s
    label_K: Int64s


def scored_positions(mask_ratio: float, pack_tokens: int) -> int:
    """Return K = round(mask_ratio x T), at least 1."""
    return max(1, round(mask_ratio * pack_tokens))


class Masker:
    """The masking of packs by one of two policies.

    ``ours``: special ids are never scored, random ids are uniform over the vocabulary without specials. Predicting
    ``<bos>`` and ``<eos>`` teaches nothing (where they stand is known), and specials as noise never occur in use.

    ``paper``: as the ModernBERT trainer. Every position but padding may be scored, ``<bos>`` and ``<eos>`` included;
    random ids are uniform over 0 ... the largest id in the pack, so specials can appear. One deviation: exactly K
    positions are scored, where that trainer draws each position on its own.

    Positions are chosen singly (``token``), by whole words (``word``) or by spans of geometric length with mean 3
    (``span``); the last unit of a pack is cut to make exactly K. Corruption is decided for each position, but for a
    span as a whole, as in SpanBERT: a span with single words left standing would give itself away.
    """

    def __init__(self, ids: TokenizerIds, policy: MaskPolicy, seed: int, unit: MaskUnit = "token") -> None:
        """Prepare the masking of one phase.

        Args:
            seed: any 64-bit integer; make it of the run's seed and the phase.

        Raises:
            ValueError: ``word`` without ``ids.words``.
        """
        if unit == "word" and ids.words is None:
            raise ValueError("whole-word masking needs TokenizerIds.words")
        self._unit = unit
        self._ids = ids
        self._policy = policy
        self._seed = seed
        never_scored = {ids.pad} if policy == "paper" else set(ids.specials) | {ids.pad, ids.bos, ids.eos, ids.mask}
        self._may_be_scored = np.ones(ids.vocab_size, dtype=np.bool_)
        self._may_be_scored[sorted(never_scored)] = False
        self._ordinary = np.flatnonzero(self._may_be_scored)

    def stream_keys(self, sample_key: U64) -> U64:
        """Return the key of the stream of draws of each sample, uint64 [S] -> uint64 [S]."""
        return hash64(self._seed, sample_key)

    def mask(self, tokens_T: Int64s, stream_key_T: U64, position_T: Int64s, scored: int) -> MaskedPack:
        """Score ``scored`` (K) positions of a pack, or all eligible ones if those are fewer.

        Args:
            tokens_T: int64 [T], original ids, padding as the pad id.
            stream_key_T: uint64 [T], ``stream_keys`` of the sample each position belongs to (anything in padding).
            position_T: int64 [T], position in the sample.
        """
        eligible = np.flatnonzero(self._may_be_scored[tokens_T])
        draw = stream64(stream_key_T[eligible], position_T[eligible])
        choice = draw
        if self._unit != "token" and len(eligible):
            chosen, choice = self._choose(tokens_T, stream_key_T, position_T, eligible, draw, scored)
            eligible, draw, choice = eligible[chosen], draw[chosen], choice[chosen]
        elif scored < len(eligible):
            smallest = np.argpartition(draw, scored - 1)[:scored]
            smallest.sort()
            eligible, draw = eligible[smallest], draw[smallest]
            choice = draw
        original = tokens_T[eligible]
        corrupted = tokens_T.copy()
        corrupted[eligible] = self._corrupt(original, draw, choice, tokens_T)
        index = np.zeros(scored, dtype=np.int64)
        label = np.full(scored, IGNORED_LABEL, dtype=np.int64)
        index[: len(eligible)] = eligible
        label[: len(eligible)] = original
        return MaskedPack(corrupted, index, label)

    def _choose(
        self, tokens_T: Int64s, stream_key_T: U64, position_T: Int64s, eligible: Int64s, draw: U64, scored: int
    ) -> tuple[npt.NDArray[np.bool_], U64]:
        """Return the eligible positions that whole units choose, bool [E], and the draw that decides the corruption of
        each."""
        position, key = position_T[eligible], stream_key_T[eligible]
        follows = np.zeros(len(eligible), dtype=np.bool_)
        follows[1:] = (np.diff(eligible) == 1) & (position[1:] > 0)
        unit_draw = stream64(hash_on(key, _UNIT), position)
        if self._unit == "span":
            begins = begins_span(stream64(hash_on(key, _EDGE), position), follows)
        else:
            assert self._ids.words is not None
            begins = begins_word(tokens_T[eligible], follows, self._ids.words)
        chosen, first = choose_units(begins, unit_draw, scored)
        return chosen, unit_draw[first] if self._unit == "span" else draw

    def _corrupt(self, original: Int64s, draw: U64, choice_draw: U64, tokens_T: Int64s) -> Int64s:
        """Return ids, int64 [scored]: 80 % the mask id, 10 % a random id, 10 % unchanged.

        Draws chose the positions, so their values are small; hashed again they are keys of independent streams."""
        choice = to_unit(hash64(choice_draw, _CHOICE))
        words = hash64(draw, _RANDOM_ID)
        if self._policy == "paper":
            random_ids = to_below(words, int(tokens_T.max()) + 1)
        else:
            random_ids = self._ordinary[to_below(words, len(self._ordinary))]
        kept_or_random = np.where(choice < _RANDOM_BELOW, random_ids, original)
        return np.where(choice < _MASKED_BELOW, self._ids.mask, kept_or_random)
