"""How many samples each group has given before any block, and where in the group's epochs that is: arithmetic alone.

With U_i(m) the tokens that group i is to give before block m, and phi_i in [0, 1) a keyed offset, it has given
S_i(m) = floor(samples(U_i(m)) + phi_i) samples. A phase counts a group's samples from 0 at its own start. Where an
earlier phase stopped in the middle of a class and the order of pieces has changed since (another ``max_length``), the
first R samples are the rest of that class in the earlier phase's cut, whose mean length counts for them; then comes the
next class, in this phase's own cut. Within a class samples have the class's mean length, so that U_i is met exactly
wherever a class ends. A piece of the rest that is too long for this phase gives as many samples as the
longest may need, so that R is known without looking at the pieces; those that a shorter one does not need are left out
later.

U_i is linear inside a stage of one temperature: base + blocks x tokens per block. Its float64 inputs come from decimal
logarithms and exact sums (``shares``), and IEEE arithmetic rounds the same everywhere and monotonically, so all
machines agree on every block.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

import numpy as np

from megatron_mmbert.config.constants import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.sampling.epoch_order.stripes import Stripes
from megatron_mmbert.data.sampling.examples import room_for_ids
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint
from megatron_mmbert.data.sampling.weights import Float64s, Int64s, WeightTable, weight_table
from megatron_mmbert.utils.counter_rng import hash64, key64, string_key, to_unit

_OFFSET = 1  # separates this use of a group's key from the mixture's
_ORDER_VERSION = 4  # raise it with any change that gives another order: checkpoints of the old one are then refused


class Runs(NamedTuple):
    """Consecutive samples of one class in one epoch each, int64 [runs].

    Attributes:
        group, epoch, row: number of the group, of its epoch, and place of the class in the division's row.
        piece, size: first piece, in the class's order, and how many.
        sample: number of the first in its group.
    """

    group: Int64s
    epoch: Int64s
    row: Int64s
    piece: Int64s
    size: Int64s
    sample: Int64s


def group_key(name: tuple[str, str], seed: int) -> int:
    """64-bit key of a (source, language)."""
    return key64(seed, string_key("/".join(name)))


class EpochPosition:
    """The way of a phase through its groups.

    Attributes:
        shares: token shares by stage.
        mean: float64 [groups], mean tokens of a sample in this phase's cut, with specials.
        rest_samples: int64 [groups], R.
        rest_slots: int64 [groups], samples that a piece of the rest gives at most.
    """

    def __init__(self, division: Stripes, phase: DataPhase) -> None:
        """
        Raises:
            UserError: as ``weight_table``.
        """
        self._division, self._phase = division, phase
        self._pieces, self._first_piece = division.pieces, division.first_piece
        with_specials = (division.class_tokens + SPECIAL_TOKENS_PER_SAMPLE * division.class_pieces).astype(np.float64)
        self._class_begin = np.cumsum(with_specials) - with_specials  # tokens of all classes before
        self._class_mean = with_specials / np.maximum(division.class_pieces, 1)
        self._group_begin = self._class_begin[division.first_class]
        self._epoch_tokens = np.add.reduceat(with_specials, division.first_class)
        self._last_class = division.first_class + division.classes - 1
        self._of_many_classes = np.flatnonzero(division.classes > 1)
        self.mean = (division.tokens + SPECIAL_TOKENS_PER_SAMPLE * self._pieces) / self._pieces
        self._take_up()
        whole = np.inf if phase.max_epochs is None else phase.max_epochs
        cap_tokens = np.floor(whole * self._pieces) * self.mean
        self.shares: WeightTable = weight_table(division.names, division.tokens, cap_tokens, phase)
        self._last = np.floor(whole * self._pieces)
        if self._has_rest and phase.max_epochs is not None:
            self._last = np.where(self.rest_samples > 0, np.floor(self.samples_in(cap_tokens)), self._last)
        # Behind the phase's end the groups under their cap go on, so that packs never run out.
        self._last_behind = np.where(self.shares.capped, self._last, np.inf)
        self._whole_blocks = phase.tokens // phase.tokens_per_block
        key = np.array([group_key(name, phase.seed) for name in division.names], dtype=np.uint64)
        self._offset = to_unit(hash64(key, _OFFSET))
        self._per_block = self.shares.share * float(phase.tokens_per_block)
        self._base = self._stage_bases()

    def _take_up(self) -> None:
        """Where the phase begins: R, and the position of the first piece behind the rest."""
        division, phase = self._division, self._phase
        self._places = [phase.places.get(name) for name in division.names]
        room = room_for_ids(phase.max_length)
        slots = [1 if p is None else -(-room_for_ids(p.max_length) // room) for p in self._places]
        read = np.array([0 if p is None else p.piece for p in self._places], dtype=np.int64)
        self.rest_slots = np.where(division.rest_pieces > 0, np.array(slots, dtype=np.int64), 1)
        self.rest_samples = np.maximum(division.rest_pieces - read, 0) * self.rest_slots
        epoch = np.array([0 if p is None else p.epoch for p in self._places], dtype=np.int64)
        row = division.first_class + np.array([0 if p is None else p.number for p in self._places], dtype=np.int64)
        in_epoch = division.class_start[row] - self._first_piece
        in_class = np.where(division.rest_pieces > 0, division.class_pieces[row], read)
        self._start = epoch * self._pieces + in_epoch + in_class
        self._start_tokens = self._tokens_at(self._start)
        # Mean tokens of the rest's samples. Cut once more they have more specials: as many as this phase's own cut.
        cut = np.where(self.rest_slots > 1, division.class_pieces[row], division.rest_pieces)
        tokens = division.class_tokens[row] + SPECIAL_TOKENS_PER_SAMPLE * np.maximum(cut, division.rest_pieces)
        self._rest_mean = np.where(
            division.rest_pieces > 0, tokens / np.maximum(division.rest_pieces * self.rest_slots, 1), self.mean
        )
        self._rest_tokens = self.rest_samples * self._rest_mean
        self._has_rest = bool(self.rest_samples.any())

    def _stage_bases(self) -> Float64s:
        """float64 [stages, groups]: U at the first block of each stage."""
        bases = [np.zeros(len(self._pieces))]
        for stage, span in enumerate(np.diff(self.shares.first_block)):
            bases.append(bases[-1] + float(span) * self._per_block[stage])
        return np.stack(bases)

    def samples_in(self, tokens: Float64s) -> Float64s:
        """Samples that make up so many tokens of each group, from the phase's start, float64 [groups]."""
        if not self._has_rest:
            return self._position(self._start_tokens + tokens) - self._start
        rest = np.minimum(tokens / self._rest_mean, self.rest_samples)
        behind = self._position(self._start_tokens + np.maximum(tokens - self._rest_tokens, 0.0)) - self._start
        return np.where(tokens < self._rest_tokens, rest, self.rest_samples + behind)

    def _position(self, tokens: Float64s) -> Float64s:
        """How many pieces of each group's endless row hold so many tokens, float64 [groups]; never falls with more."""
        epoch = np.floor(tokens / self._epoch_tokens)
        within = np.maximum(tokens - epoch * self._epoch_tokens, 0.0)
        row = self._division.first_class.copy()
        many = self._of_many_classes
        found = np.searchsorted(self._class_begin, self._group_begin[many] + within[many], side="right") - 1
        row[many] = np.minimum(found, self._last_class[many])
        within = np.maximum(within - (self._class_begin[row] - self._group_begin), 0.0)
        piece = np.minimum(within / self._class_mean[row], self._division.class_pieces[row])
        return epoch * self._pieces + (self._division.class_start[row] - self._first_piece) + piece

    def _tokens_at(self, position: Int64s) -> Float64s:
        """Tokens of the first ``position`` pieces of each group's endless row, float64 [groups]."""
        epoch, number = self._locate(np.arange(len(position)), position)
        row = self._division.first_class + number
        piece = position - epoch * self._pieces - (self._division.class_start[row] - self._first_piece)
        begin = epoch * self._epoch_tokens + (self._class_begin[row] - self._group_begin)
        return begin + piece * self._class_mean[row]

    def tokens_of(self, samples: Int64s) -> Float64s:
        """Tokens that the first ``samples`` int64 [groups] hold on average, float64 [groups]."""
        rest = np.minimum(samples, self.rest_samples)
        behind = self._tokens_at(self._start + samples - rest) - self._start_tokens
        return rest * self._rest_mean + behind

    def samples_before(self, block: int) -> Int64s:
        """Samples of each group before ``block``, int64 [groups]."""
        stage = self.shares.stage_of(block)
        tokens = self._base[stage] + float(block - self.shares.first_block[stage]) * self._per_block[stage]
        last = self._last if block <= self._whole_blocks else self._last_behind
        return np.minimum(np.floor(self.samples_in(tokens) + self._offset), last).astype(np.int64)

    def runs(self, first: Int64s, stop: Int64s) -> Runs:
        """The samples ``first`` ... ``stop`` - 1 of each group that lie behind the rest, int64 [groups] each."""
        division = self._division
        low = self._start + np.maximum(first - self.rest_samples, 0)
        high = self._start + np.maximum(stop - self.rest_samples, 0)
        group = np.flatnonzero(high > low)
        low, high = low[group], high[group]
        low_epoch, low_row = self._locate(group, low)
        high_epoch, high_row = self._locate(group, high - 1)
        classes = division.classes[group]
        # Classes numbered through the epochs: those from the first to the last sample's make one run each.
        number = low_epoch * classes + low_row
        runs = high_epoch * classes + high_row - number + 1
        of = np.repeat(np.arange(len(group)), runs)
        number = np.arange(len(of)) - (np.cumsum(runs) - runs - number)[of]
        low, high, group = low[of], high[of], group[of]
        epoch = number // classes[of]
        row = division.first_class[group] + number - epoch * classes[of]
        begin = epoch * self._pieces[group] + division.class_start[row] - self._first_piece[group]
        low = np.maximum(low, begin)
        size = np.minimum(high, begin + division.class_pieces[row]) - low
        sample = low - (self._start - self.rest_samples)[group]
        return Runs(group, epoch, row, low - begin, size, sample)

    def _locate(self, group: Int64s, position: Int64s) -> tuple[Int64s, Int64s]:
        """(epoch, number of the class) of positions in the groups' endless rows of pieces, all int64 [N]."""
        epoch = position // self._pieces[group]
        piece = self._first_piece[group] + position - epoch * self._pieces[group]
        # From the right: classes without a piece begin where the next one does.
        row = np.searchsorted(self._division.class_start, piece, side="right") - 1
        return epoch, row - self._division.first_class[group]

    def places_at(self, block: int) -> dict[tuple[str, str], ResumePoint]:
        """Where the phase stands in each group before ``block``."""
        samples = self.samples_before(block)
        read = -(-samples // self.rest_slots)  # a piece of the rest that is cut once more counts when begun
        behind = samples >= self.rest_samples
        epoch, number = self._locate(np.arange(len(samples)), self._start + samples - self.rest_samples)
        row = self._division.first_class + number
        in_epoch = self._division.class_start[row] - self._first_piece
        piece = self._start + samples - self.rest_samples - epoch * self._pieces - in_epoch
        places = {}
        for i, name in enumerate(self._division.names):
            before = self._places[i]
            if behind[i] or before is None:
                places[name] = ResumePoint(int(epoch[i]), int(number[i]), int(piece[i]), self._phase.max_length,
                                     self._phase.seed)  # fmt: skip
            else:
                places[name] = before._replace(piece=before.piece + int(read[i]))
        return places

    def epochs(self, samples: Int64s) -> Float64s:
        """Passes over each group's text that the first ``samples`` int64 [groups] make, float64 [groups]."""
        return self.tokens_of(samples) / (self.mean * self._pieces)

    def fingerprint(self) -> str:
        """Hex digest of all that fixes the order of packs; a resumed run must have the one it was stopped with."""
        phase, division = self._phase, self._division
        digest = hashlib.blake2b(digest_size=16)
        fixed = (
            _ORDER_VERSION,
            division.names,
            phase.tokens_per_block,
            phase.max_length,
            phase.pack_tokens,
            phase.seed,
        )
        digest.update(repr((*fixed, [place and tuple(place) for place in self._places])).encode())
        for array in (
            division.class_tokens,
            division.class_pieces,
            division.classes,
            self.shares.first_block,
            self._base,
            self._per_block,
            self._last_behind,
        ):
            digest.update(array.tobytes())
        return digest.hexdigest()
