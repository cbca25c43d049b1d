"""Which pieces make up block m: computed from (settings, seed, m), with no index and no state.

A *block* is the unit of mixture, shuffling and packing. With S_i(m) the expected number of samples of group i in the
blocks before m, and phi_i in [0, 1) a keyed offset, block m holds the samples

    floor(S_i(m) + phi_i)  ...  floor(S_i(m + 1) + phi_i) - 1        of every group i.

The counts telescope, so shares are exact to one sample over any range, every block is reached in O(groups), and the
offsets spread languages rarer than one sample per block evenly over the blocks. Sample s of a group is piece
perm(s mod pieces) of epoch s div pieces, perm keyed by (seed, source, language, epoch): each piece once per epoch.

S_i is linear inside a stage of one temperature: base + blocks x samples per block. Its float64 inputs come from
decimal logarithms and exact sums (``shares``), and IEEE multiplication and addition round the same everywhere and
monotonically, so all machines agree on every block.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.permutation import (
    U64,
    hash64,
    hash_on,
    key64,
    keyed_order,
    permute,
    sides,
    string_key,
    to_unit,
)
from megatron_mmbert.data.phase import DataPhase, TokenSource
from megatron_mmbert.data.pieces import SPECIALS_PER_SAMPLE, PieceTable, count_pieces, narrow_lengths
from megatron_mmbert.data.shares import Float64s, Int64s, share_table
from megatron_mmbert.errors import UserError, nearest

_OFFSET, _EPOCH, _SAMPLE = 1, 2, 3  # separate the uses of a key
_ORDER_VERSION = 2  # raise it with any change that gives another order: checkpoints of the old one are then refused


@dataclass(frozen=True)
class Block:
    """N samples in shuffled order.

    Attributes:
        group: int32 [N], position in ``Mixture.names``.
        document: int64 [N], number in the group.
        start, stop: int64 [N], ids of the document.
        sample_key: uint64 [N], unlike for every sample of every epoch of every group.
    """

    group: npt.NDArray[np.int32]
    document: Int64s
    start: Int64s
    stop: Int64s
    sample_key: U64

    @property
    def lengths(self) -> Int64s:
        """int64 [N], tokens of each sample with its specials."""
        return self.stop - self.start + SPECIALS_PER_SAMPLE


@dataclass(frozen=True)
class GroupPlan:
    """What a phase takes from one group: share of the phase, tokens (with specials), samples, epochs."""

    source: str
    language: str
    share: float
    tokens: float
    samples: float
    epochs: float
    capped: bool


class Mixture:
    """The samples of a phase, by block.

    Attributes:
        names: (source, language) of every group with text, sorted.
        tokens, pieces: int64 [groups].
        block_tokens: expected tokens of a block.
    """

    def __init__(self, source: TokenSource, phase: DataPhase) -> None:
        """Reads the lengths of all documents once.

        Raises:
            UserError: an unknown source or language, no text, or epoch caps below the phase's tokens.
        """
        self.phase = phase
        self.block_tokens = phase.tokens_per_block
        self.names, lengths = _read_lengths(source, phase)
        documents = np.array([len(found) for found in lengths], dtype=np.int64)
        self.tokens = np.array([found.sum(dtype=np.int64) for found in lengths])
        self.pieces = np.array([count_pieces(found, phase.max_length) for found in lengths], dtype=np.int64)
        # One table over all groups: a block then needs one search, not one for each of a thousand languages.
        self._table = PieceTable(_joined(lengths), phase.max_length)
        self._first_document = np.cumsum(documents) - documents
        self._first_piece = np.cumsum(self.pieces) - self.pieces
        self._mean = (self.tokens + SPECIALS_PER_SAMPLE * self.pieces) / self.pieces
        whole = np.inf if phase.max_epochs is None else phase.max_epochs
        cap_samples = np.floor(whole * self.pieces)
        self._shares = share_table(self.names, self.tokens, cap_samples * self._mean, phase)
        self._start = np.array([phase.start_samples.get(name, 0) for name in self.names], dtype=np.int64)
        # Behind the phase's end the groups under their cap go on, so that packs never run out.
        self._last = self._start + cap_samples
        self._last_behind = np.where(self._shares.capped, self._last, np.inf)
        self._whole_blocks = phase.tokens // self.block_tokens
        key = np.array([key64(phase.seed, string_key("/".join(name))) for name in self.names], dtype=np.uint64)
        self._offset = to_unit(hash64(key, _OFFSET))
        self._epoch_state, self._sample_state = hash64(key, _EPOCH), hash64(key, _SAMPLE)
        self._grid = sides(self.pieces)
        self._per_block = self._shares.share * (self.block_tokens / self._mean)
        self._base = self._stage_bases()

    def _stage_bases(self) -> Float64s:
        """float64 [stages, groups]: S at the first block of each stage."""
        bases = [self._start.astype(np.float64)]
        for stage, span in enumerate(np.diff(self._shares.first_block)):
            bases.append(bases[-1] + float(span) * self._per_block[stage])
        return np.stack(bases)

    @property
    def mean_lengths(self) -> Float64s:
        """Mean tokens of a sample, with its specials, float64 [groups]."""
        return self._mean

    def samples_before(self, block: int) -> Int64s:
        """Samples of each group before ``block``, int64 [groups], those of earlier phases included."""
        stage = self._shares.stage_of(block)
        blocks = float(block - self._shares.first_block[stage])
        expected = self._base[stage] + blocks * self._per_block[stage]
        last = self._last if block <= self._whole_blocks else self._last_behind
        return np.minimum(np.floor(expected + self._offset), last).astype(np.int64)

    def block(self, number: int) -> Block:
        """Block ``number`` (from 0), the same whatever was asked before."""
        first = self.samples_before(number)
        counts = self.samples_before(number + 1) - first
        group = np.repeat(np.arange(len(counts)), counts)
        sample = np.arange(len(group)) - np.repeat(np.cumsum(counts) - counts - first, counts)
        sample_key = hash_on(self._sample_state[group], sample)
        order = keyed_order(sample_key)
        group, sample, sample_key = group[order], sample[order], sample_key[order]
        pieces = self.pieces[group]
        epoch = sample // pieces
        grid = (self._grid[0][group], self._grid[1][group])
        piece = permute(sample - epoch * pieces, pieces, hash_on(self._epoch_state[group], epoch), grid)
        document, start, stop = self._table.locate(self._first_piece[group] + piece)
        document -= self._first_document[group]
        return Block(group.astype(np.int32), document, start, stop, sample_key)

    def temperature_at(self, tokens: int) -> float:
        """tau in force after ``tokens`` of the phase (the value of its stage)."""
        return float(self._shares.temperature[self._shares.stage_of(tokens // self.block_tokens)])

    def shares_at(self, tokens: int) -> Float64s:
        """Token shares in force after ``tokens`` of the phase, float64 [groups]."""
        return self._shares.share[self._shares.stage_of(tokens // self.block_tokens)]

    def expected(self) -> list[GroupPlan]:
        """What the whole phase takes from every group, in the order of ``names``."""
        tokens = (self._shares.stage_tokens[:, None] * self._shares.share).sum(axis=0)
        samples = tokens / self._mean
        rows = zip(self.names, tokens, samples, samples / self.pieces, self._shares.capped, strict=True)
        return [
            GroupPlan(*name, float(t / self.phase.tokens), float(t), float(s), float(e), bool(c))
            for name, t, s, e, c in rows
        ]

    def fingerprint(self) -> str:
        """Hex digest of all that fixes the order of packs; a resumed run must have the one it was stopped with."""
        digest = hashlib.blake2b(digest_size=16)
        phase = self.phase
        fixed = (_ORDER_VERSION, self.names, self.block_tokens, phase.max_length, phase.pack_tokens, phase.seed)
        digest.update(repr(fixed).encode())
        for array in (
            self.tokens,
            self.pieces,
            self._shares.first_block,
            self._base,
            self._per_block,
            self._last_behind,
        ):
            digest.update(array.tobytes())
        return digest.hexdigest()


def _read_lengths(source: TokenSource, phase: DataPhase) -> tuple[list[tuple[str, str]], list[npt.NDArray[Any]]]:
    """Names and document lengths of the phase's groups with text.

    Raises:
        UserError: there is none, or as ``chosen_groups``.
    """
    names, lengths = [], []
    for name in chosen_groups(source, phase):
        found = narrow_lengths(source.document_lengths(*name))
        if found.any():
            names.append(name)
            lengths.append(found)
    if not names:
        raise UserError(f"phase {phase.name!r}: its sources and languages hold no text")
    return names, lengths


def _joined(arrays: list[npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """The arrays end to end. Empties the list on the way, so that memory never holds all of them twice."""
    joined = np.empty(sum(map(len, arrays)), dtype=np.result_type(*{array.dtype for array in arrays}))
    end = len(joined)
    while arrays:
        last = arrays.pop()
        joined[end - len(last) : end] = last
        end -= len(last)
    return joined


def chosen_groups(source: TokenSource, phase: DataPhase) -> list[tuple[str, str]]:
    """(source, language) of the phase, sorted: its sources table and its language list applied to the store.

    Raises:
        UserError: a name the store does not have.
    """
    names = sorted((group.source, group.language) for group in source.groups)
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
