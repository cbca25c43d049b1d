"""The settings of a phase's data, and the interface of a store that sampling and loading read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, get_args

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.data import MaskPolicy, MaskUnit
from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.utils.errors import UserError

Bools = npt.NDArray[np.bool_]
_MAX_PACKS_PER_BLOCK = 256
_MIN_PACKS_PER_BLOCK = 64
_BLOCKS_PER_SMALL_PHASE = 16
_IN_PROPORTION, _MASK_RATIO = LinearRamp.constant(1.0), LinearRamp.constant(0.3)


class DatasetInfo(Protocol):
    """One (source, language) of a store."""

    @property
    def source(self) -> str: ...
    @property
    def language(self) -> str: ...


class TokenSource(Protocol):
    """The part of ``store.Store`` the mixture and the loader use; ``reader(source, language)(document,
    start, stop)`` gives ids without ``<bos>`` and ``<eos>``."""

    @property
    def datasets(self) -> Sequence[DatasetInfo]: ...
    @property
    def vocab_size(self) -> int: ...
    def document_lengths(self, source: str, language: str) -> npt.NDArray[np.int64]: ...
    def reader(self, source: str, language: str) -> Callable[[int, int, int], npt.NDArray[Any]]: ...
    def where(self, source: str, language: str, document: int) -> str: ...


class MixtureError(UserError):
    """The settings of a phase and the text that there is do not go together; nothing is wrong with the files."""


@dataclass(frozen=True)
class WordMarks:
    """The edges of words, by id of the vocabulary.

    Attributes:
        begins: bool [vocabulary], the vocabulary piece begins a word.
        alone: bool [vocabulary], the vocabulary piece is a unit by itself, so another begins after it.
    """

    begins: Bools
    alone: Bools


@dataclass(frozen=True)
class TokenizerIds:
    """The special ids of a tokenizer.

    Attributes:
        specials: every id that is no text (pad, bos, eos, mask, unk, reserved ones).
        words: the edges of words, for whole-word masking.
    """

    pad: int
    bos: int
    eos: int
    mask: int
    specials: frozenset[int]
    vocab_size: int
    words: WordMarks | None = field(default=None, compare=False, repr=False)


class ResumePoint(NamedTuple):
    """The epoch position that earlier phases have reached in one dataset.

    Attributes:
        epoch: index of the epoch in progress.
        stripe: index of the stripe in progress; those before it are read.
        example: how many examples of that stripe are read.
        max_length, seed: of the phase that began the stripe: they fix its examples and their order.
    """

    epoch: int
    stripe: int
    example: int
    max_length: int
    seed: int

    def same_order(self, phase: DataPhase) -> bool:
        """Return whether ``phase`` has the same examples in the same order, so that it just continues the stripe."""
        return (self.max_length, self.seed) == (phase.max_length, phase.seed)


@dataclass(frozen=True)
class DataPhase:
    """The data settings of one phase: one attribute for each, all read-only, hence so many.

    Attributes:
        name: enters the masks' key, so that phases over the same samples mask differently.
        tokens: real (non-pad) tokens of the phase; schedules run over it.
        max_length: longest sample, with ``<bos>`` and ``<eos>``.
        pack_tokens: T, the fixed size of a pack.
        languages: taken from every source; None takes all.
        temperature: tau of the tempered sources over the phase.
        boost: factors on the weight of single languages, after the temperature.
        tempered: sources tau applies to, the others keep their own proportions; None: all sources.
        sources: weight of each source used (normalised to one); None: all sources, by their token counts.
        mask_ratio: scored positions per pack position over the phase.
        mask_policy, mask_unit: see ``masking.Masker``.
        max_epochs: no dataset is read more often in this phase; None: no limit.
        block_tokens: tokens of a mixture block (see ``mixture``); None: ``default_block_tokens``.
        resume_points: (source, language) -> where earlier phases have stopped in it; this phase resumes there. Datasets
            that are not named begin their first epoch.
        min_stripe_tokens: tokens a stripe holds at least (see ``stripes``); one value for all phases of a run.
    """

    # attributes: one for each setting of a phase that changes what is drawn

    name: str
    tokens: int
    max_length: int
    pack_tokens: int
    languages: tuple[str, ...] | None = None
    temperature: LinearRamp = _IN_PROPORTION
    boost: Mapping[str, float] = field(default_factory=dict)
    tempered: frozenset[str] | None = None
    sources: Mapping[str, float] | None = None
    mask_ratio: LinearRamp = _MASK_RATIO
    mask_policy: MaskPolicy = "ours"
    mask_unit: MaskUnit = "token"
    max_epochs: float | None = None
    block_tokens: int | None = None
    resume_points: Mapping[tuple[str, str], ResumePoint] = field(default_factory=dict)
    min_stripe_tokens: int = 1 << 22
    seed: int = 0

    def __post_init__(self) -> None:
        where = f"phase {self.name!r}"
        if self.tokens < 1:
            raise MixtureError(f"{where}: tokens must be positive, not {self.tokens}")
        if not 3 <= self.max_length <= self.pack_tokens:
            raise MixtureError(
                f"{where}: max_length {self.max_length} must lie between 3 and the pack's {self.pack_tokens} tokens"
            )
        for ratio in (self.mask_ratio.start, self.mask_ratio.end):
            if not 0.0 < ratio <= 1.0:
                raise MixtureError(f"{where}: mask_ratio must be above 0 and at most 1, not {ratio}")
        for tau in (self.temperature.start, self.temperature.end):
            if not 0.0 <= tau <= 1.0:
                raise MixtureError(f"{where}: temperature must lie in [0, 1], not {tau}")
        for language, factor in self.boost.items():
            if not factor > 0:
                raise MixtureError(f"{where}: boost of {language!r} must be positive, not {factor}")
        if self.max_epochs is not None and self.max_epochs <= 0:
            raise MixtureError(f"{where}: max_epochs must be positive, not {self.max_epochs}")
        if self.block_tokens is not None and self.block_tokens < self.pack_tokens:
            raise MixtureError(f"{where}: block_tokens {self.block_tokens} is less than one pack of {self.pack_tokens}")
        for name, known in (("mask_policy", get_args(MaskPolicy)), ("mask_unit", get_args(MaskUnit))):
            if getattr(self, name) not in known:
                raise MixtureError(f"{where}: {name} {getattr(self, name)!r} is none of {', '.join(known)}")

    @property
    def tokens_per_block(self) -> int:
        """The tokens of a mixture block: ``block_tokens`` or its default."""
        return self.block_tokens or default_block_tokens(self.tokens, self.pack_tokens)


def default_block_tokens(phase_tokens: int, pack_tokens: int) -> int:
    """Return the tokens of a mixture block: 256 packs, in small phases a sixteenth of the phase, but at least 64.

    A block ends with half an unfilled pack on average, so 64 packs are what keeps packs 99 % full; 256 cost about
    50 ms to plan and follow a temperature schedule closely enough.
    """
    packs = phase_tokens // _BLOCKS_PER_SMALL_PHASE // pack_tokens
    return pack_tokens * min(max(packs, _MIN_PACKS_PER_BLOCK), _MAX_PACKS_PER_BLOCK)
