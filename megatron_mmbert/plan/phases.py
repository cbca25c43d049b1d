"""The plan of each phase: its steps, its languages with how often they are read, and its arithmetic.

Nothing is estimated that training computes: languages come from the mixture, steps from the batch ramp, FLOPs from
``model.flops``. One thing is assumed: that the lengths of samples, and how well they fill packs, are everywhere those
of the block in the phase's middle. Small phases have small blocks, which leave packs up to 3 % empty and so take more
steps than tokens divided by tokens per step. FLOPs are those of text; padding is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from megatron_mmbert.builders.data import data_phase, found_languages
from megatron_mmbert.builders.schedules import batch_ramp, empty_packs_text, step_split
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.masking import scored_positions
from megatron_mmbert.data.loading.packing import Int64s, pack_block
from megatron_mmbert.data.sampling.mixture import Mixture, MixtureTotals
from megatron_mmbert.data.sampling.settings import DataPhase, MixtureError, TokenSource
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.optim.schedule import BatchRamp, steps_for
from megatron_mmbert.plan.token_counts import TokenCounts
from megatron_mmbert.utils.errors import UserError, nearest

Warn = Callable[[str], None]
_MAX_NAMED = 8


@dataclass(frozen=True)
class DatasetUse:
    """The reading of one (source, language) in a phase.

    Attributes:
        text_tokens: ids there are.
        available: tokens that one pass gives, ``<bos>`` and ``<eos>`` of every sample included.
        tokens: those the phase reads, of which ``available`` is one epoch.
        run_epochs: passes by the end of the phase, with those of the phases that it starts from.
    """

    source: str
    language: str
    text_tokens: int
    available: float
    tokens: float
    epochs: float
    run_epochs: float
    capped: bool


@dataclass(frozen=True)
class LanguageUse:
    """The reading of a language over all its sources; ``share`` is its part of the phase's tokens."""

    language: str
    text_tokens: int
    tokens: float
    share: float
    epochs: float
    run_epochs: float


@dataclass(frozen=True)
class PhasePlan:
    """A phase before it is trained. ``groups`` is empty where there is no text to plan with; ``fill`` is the share of
    packs that is text, ``idle`` a sentence on empty packs, "" where there are none."""

    phase: Phase
    origin: str | None
    ramp: BatchRamp
    idle: str
    fill: float
    steps: int
    flops_per_token: float
    groups: tuple[DatasetUse, ...]
    missing: tuple[str, ...]

    @property
    def flops(self) -> float:
        return self.flops_per_token * self.phase.tokens

    def languages(self) -> list[LanguageUse]:
        """Return the languages, those with most tokens first."""
        by_language: dict[str, list[DatasetUse]] = {}
        for group in self.groups:
            by_language.setdefault(group.language, []).append(group)
        uses = [_language_use(name, groups, self.phase.tokens) for name, groups in by_language.items()]
        return sorted(uses, key=lambda use: (-use.tokens, use.language))

    def repeated(self, max_epochs: float) -> list[DatasetUse]:
        """Return the datasets read more than ``max_epochs`` times by the end of this phase, the most repeated first."""
        found = [group for group in self.groups if group.run_epochs > max_epochs]
        return sorted(found, key=lambda group: (-group.run_epochs, group.language))


def plan_phases(recipe: Recipe, text: TokenSource | None, gpus: int, warn: Warn) -> list[PhasePlan]:
    """Return the plans of all phases, in the recipe's order.

    Raises:
        UserError: a layout or batch that training would refuse too.
    """
    ranks = recipe.parallel.tensor * recipe.parallel.pipeline
    if gpus % ranks:
        raise UserError(
            f"--gpus {gpus}: not a multiple of parallel.tensor x parallel.pipeline = {ranks}; choose a multiple of it"
        )
    plans: dict[str, PhasePlan] = {}
    for phase in recipe.phases:
        origin = recipe.origin(phase)
        before = {(group.source, group.language): group.run_epochs for group in plans[origin].groups} if origin else {}
        missing = _missing(phase, text, warn) if text is not None else ()
        mixture = _mixture(recipe, phase, text, warn) if text is not None else None
        ramp = batch_ramp(phase, gpus // ranks, recipe.parallel)
        lengths = middle_lengths(phase, mixture)
        fill = pack_fill(lengths, phase.batch.pack_tokens) if mixture else 1.0
        filled = replace(ramp, tokens_per_pack=round(fill * ramp.tokens_per_pack))
        plans[phase.name] = PhasePlan(
            phase=phase,
            origin=origin,
            ramp=ramp,
            idle=empty_packs_text(phase, ramp, step_split(phase, gpus // ranks, recipe.parallel)),
            fill=fill,
            steps=steps_for(phase.tokens, filled),
            flops_per_token=flops_per_token(recipe.model, phase, lengths),
            groups=tuple(_uses(mixture, before)) if mixture else (),
            missing=missing,
        )
    return list(plans.values())


def middle_lengths(phase: Phase, mixture: MixtureTotals | None) -> Int64s:
    """Return the tokens of each sample of the phase's middle block.

    A pack of full samples where there are no documents, or no sample.
    """
    full = np.full(phase.batch.pack_tokens // phase.max_length, phase.max_length, dtype=np.int64)
    if not isinstance(mixture, Mixture):
        return full
    blocks = -(-phase.tokens // mixture.block_tokens)
    lengths = mixture.block(blocks // 2).lengths
    return lengths if len(lengths) else full


def pack_fill(lengths: Int64s, pack_tokens: int) -> float:
    """Return the fraction of the packs that samples of these lengths fill."""
    packs = pack_block(lengths, pack_tokens, key=0)  # the key orders the packs, which does not matter here
    return float(lengths.sum()) / (len(packs) * pack_tokens)


def flops_per_token(model: ModelConfig, phase: Phase, lengths: Int64s) -> float:
    """Return the mean FLOPs that training a token of samples of these lengths takes."""
    pack_tokens = phase.batch.pack_tokens
    scored = scored_positions(phase.mask_ratio.at(0.5), pack_tokens) / pack_tokens
    tokens = int(lengths.sum())
    return training_flops(model, lengths.tolist(), round(scored * tokens)) / tokens


def some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - _MAX_NAMED} more" if len(listed) > _MAX_NAMED else ""
    return ", ".join(listed[:_MAX_NAMED]) + more


def _missing(phase: Phase, text: TokenSource, warn: Warn) -> tuple[str, ...]:
    found = found_languages(phase, text) or {}
    missing = tuple(code for code, names in found.items() if not names)
    if missing:
        hint = "" if missing[1:] else nearest(missing[0], {group.language for group in text.datasets})
        warn(f"phase {phase.name!r}: no text of {len(missing)} of its {len(found)} languages: {some(missing)}{hint}")
    return missing


def _mixture(recipe: Recipe, phase: Phase, text: TokenSource, warn: Warn) -> MixtureTotals | None:
    """The mixture that training would make of what there is, of a table of counts its outline; where training would
    refuse, the reason is a warning."""
    kind = MixtureTotals if isinstance(text, TokenCounts) else Mixture
    allowed = recipe.model_copy(update={"data": recipe.data.model_copy(update={"allow_missing_languages": True})})
    tempered = data_phase(allowed, phase.model_copy(update={"sources": {}}), text, lambda _: None)
    settings = _with_sources_there_are(replace(tempered, sources=phase.sources or None), text, warn)
    try:
        return kind(text, settings)
    except MixtureError as error:
        warn(str(error))
    if settings.max_epochs is None:
        return None
    try:
        return kind(text, replace(settings, max_epochs=None))  # shows what the cap would have to be
    except MixtureError:
        return None


def _with_sources_there_are(settings: DataPhase, text: TokenSource, warn: Warn) -> DataPhase:
    if settings.sources is None:
        return settings
    if isinstance(text, TokenCounts) and not text.names_sources:
        return replace(settings, sources=None)  # one source, unknown to the recipe, and tempered as any such
    chosen = [group for group in text.datasets if settings.languages is None or group.language in settings.languages]
    there = {group.source for group in chosen}
    lacking = [name for name in settings.sources if name not in there]
    if lacking:
        warn(f"phase {settings.name!r}: no text of source {some(lacking)}; its share goes to the other sources")
    return replace(settings, sources={name: share for name, share in settings.sources.items() if name in there})


def _uses(mixture: MixtureTotals, before: dict[tuple[str, str], float]) -> Iterable[DatasetUse]:
    available = (mixture.mean_lengths * mixture.examples).tolist()
    for group, text_tokens, one_pass in zip(mixture.expected(), mixture.tokens.tolist(), available, strict=True):
        name = (group.source, group.language)
        run_epochs = group.epochs + before.get(name, 0.0)
        yield DatasetUse(*name, text_tokens, one_pass, group.tokens, group.epochs, run_epochs, group.capped)


def _language_use(language: str, groups: list[DatasetUse], phase_tokens: int) -> LanguageUse:
    tokens = sum(group.tokens for group in groups)
    available = sum(group.available for group in groups)
    return LanguageUse(
        language=language,
        text_tokens=sum(group.text_tokens for group in groups),
        tokens=tokens,
        share=tokens / phase_tokens,
        epochs=tokens / available,
        run_epochs=sum(group.run_epochs * group.available for group in groups) / available,
    )
