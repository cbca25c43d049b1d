"""From the recipe to a phase's data: its languages, stores, tokenizer, and where it resumes in each dataset."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from megatron_mmbert.checkpoint.metadata import TrainedSection
from megatron_mmbert.config.data import LanguageTable, SourceConfig
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.masking_units import word_marks
from megatron_mmbert.data.sampling.resume import ResumePoints, TrainedPhase, nominal_blocks, resume_points_after
from megatron_mmbert.data.sampling.settings import DataPhase, MixtureError, ResumePoint, TokenizerIds, TokenSource
from megatron_mmbert.data.store.multi_store import ConcatenatedStores, open_stores
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.utils.errors import UserError, nearest


def tokenizer_of(recipe: Recipe) -> Tokenizer:
    """Load the recipe's tokenizer.

    Raises:
        UserError: it cannot be loaded, or its size is not the model's.
    """
    tokenizer = load_tokenizer(recipe.tokenizer.path)
    if not tokenizer.fits_rows(recipe.model.vocab_size):
        raise UserError(
            f"{recipe.tokenizer.path}: the tokenizer has {tokenizer.vocab_size} ids and the model's vocab_size is "
            f"{recipe.model.vocab_size}; set model.vocab_size to {tokenizer.vocab_size} or choose another tokenizer"
        )
    return tokenizer


def token_ids(tokenizer: Tokenizer, with_words: bool = False) -> TokenizerIds:
    """Return the ids that packing and masking use; ``with_words``: for whole-word masking, which reads every piece of
    the vocabulary."""
    return TokenizerIds(
        pad=tokenizer.pad_id,
        bos=tokenizer.bos_id,
        eos=tokenizer.eos_id,
        mask=tokenizer.mask_id,
        specials=frozenset(tokenizer.special_ids),
        vocab_size=tokenizer.vocab_size,
        words=word_marks([tokenizer.spelled(i) for i in range(tokenizer.vocab_size)]) if with_words else None,
    )


def stores_of(paths: Iterable[Path], tokenizer: Tokenizer, check_share: float | None = None) -> ConcatenatedStores:
    """Open the stores together; ``check_share``: see :meth:`Store.open`.

    Raises:
        UserError: one cannot be opened, or was made with another tokenizer.
    """
    union = open_stores(list(paths), check_share)
    for store in union.stores:
        if not tokenizer.has_fingerprint(store.tokenizer_fingerprint):
            raise UserError(
                f"{store.path}: made with another tokenizer than {tokenizer.path}; run tools/preprocess_data.py with "
                "this tokenizer, or name the store's own"
            )
    return union


def data_phase(
    recipe: Recipe,
    phase: Phase,
    stores: TokenSource,
    warn: Callable[[str], None] = print,
    points: Mapping[tuple[str, str], ResumePoint] | None = None,
) -> DataPhase:
    """Return the loader's settings for a phase; ``points``: where it resumes in the data, None from the start.

    Raises:
        UserError: a language or source that the stores lack.
    """
    languages = languages_of(recipe, phase, stores, warn)
    sources = {group.source for group in stores.datasets}
    tempered = frozenset(s for s in sources if s not in recipe.data.sources or recipe.data.sources[s].tempered)
    return DataPhase(
        name=phase.name,
        tokens=phase.tokens,
        max_length=phase.max_length,
        pack_tokens=phase.batch.pack_tokens,
        languages=languages,
        temperature=phase.temperature,
        boost=phase_boost(recipe, phase, stores),
        tempered=tempered,
        sources=sources_of(recipe, phase, stores, languages, warn),
        mask_ratio=phase.mask_ratio,
        mask_policy=recipe.data.masking,
        mask_unit=recipe.data.masking_unit,
        max_epochs=phase.max_epochs,
        resume_points=points or {},
        seed=recipe.seed,
    )


def trained_resume_points(
    recipe: Recipe, history: Iterable[TrainedSection], stores: TokenSource, warn: Callable[[str], None] = print
) -> ResumePoints:
    """Return where the phases before a checkpoint have stopped in each dataset.

    ``warn`` is called with a sentence about what is no longer known (:func:`resume_points_after`); training continues
    without it.
    """
    trained = []
    for each in history:
        sources = {name: SourceConfig.model_validate(value) for name, value in each.sources.items()}
        data = recipe.data.model_copy(update={"sources": sources})
        then = recipe.model_copy(update={"seed": each.seed, "data": data})
        try:
            settings = _data_phase_of_what_there_is(then, Phase.model_validate(each.phase), stores)
        except MixtureError as error:
            warn(f"what phase {each.phase['name']!r} read is not known ({error}), so text may repeat")
            return {}
        trained.append(TrainedPhase(settings, each.blocks, each.fingerprint))
    return resume_points_after(stores, trained, warn)


def planned_places(recipe: Recipe, phase: Phase, stores: TokenSource) -> ResumePoints:
    """Return where ``phase`` will resume in the data if the phases before it end in the block that they should.

    Raises:
        UserError: the stores lack all text, or a source, of one of those phases.
    """
    before: list[TrainedPhase] = []
    origin = recipe.origin(phase)
    while origin is not None:
        settings = _data_phase_of_what_there_is(recipe, recipe.phase(origin), stores)
        before.insert(0, TrainedPhase(settings, nominal_blocks(settings)))
        origin = recipe.origin(recipe.phase(origin))
    return resume_points_after(stores, before)


def _data_phase_of_what_there_is(recipe: Recipe, phase: Phase, stores: TokenSource) -> DataPhase:
    data = recipe.data.model_copy(update={"allow_missing_languages": True, "allow_missing_sources": True})
    return data_phase(recipe.model_copy(update={"data": data}), phase, stores, lambda _: None)


def phase_boost(recipe: Recipe, phase: Phase, stores: TokenSource) -> dict[str, float]:
    """Return the phase's factors by the stores' own language names.

    Raises:
        UserError: a code that neither the stores nor the phase's languages know.
    """
    known = _known_languages(stores)
    wanted = set(found_languages(phase, stores) or ()) if recipe.data.allow_missing_languages else set()
    for code in phase.boost:
        if not _matches(code, known) and code not in wanted:
            raise MixtureError(
                f"phase {phase.name!r}: boost names {code!r}, which the stores lack{nearest(code, known)}; "
                "correct it or take it out"
            )
    return {name: factor for code, factor in phase.boost.items() for name in _matches(code, known)}


def sources_of(
    recipe: Recipe,
    phase: Phase,
    stores: TokenSource,
    languages: Sequence[str] | None,
    warn: Callable[[str], None] = print,
) -> dict[str, float] | None:
    """Return the weights of the phase's sources; None for all by their tokens.

    Args:
        languages: the stores' names of those that the phase takes, None for all.

    Raises:
        UserError: the stores lack some and the recipe does not allow it, or all of them.
    """
    there = {group.source for group in stores.datasets if languages is None or group.language in languages}
    missing = [name for name in phase.sources if name not in there]
    found = {name: weight for name, weight in phase.sources.items() if name in there}
    if not missing:
        return found or None
    listed = ", ".join(repr(name) for name in missing)
    if found and recipe.data.allow_missing_sources:
        warn(f"phase {phase.name!r}: the stores have no text of its sources {listed}; the others share their part")
        return found
    hint = nearest(missing[0], there) if not missing[1:] else ""
    leave_out = ", set data.allow_missing_sources" if found else ""
    raise MixtureError(
        f"phase {phase.name!r}: the stores have no text of its sources {listed}{hint}, but of {sorted(there)}; "
        f"preprocess it with --source{leave_out}, or mix what there is by its tokens: phases.{phase.name}.sources={{}}"
    )


def check_source_names(recipe: Recipe, stores: TokenSource) -> None:
    """Raise UserError where ``data.sources`` names a source that neither the stores nor a phase know."""
    known = {group.source for group in stores.datasets} | {name for phase in recipe.phases for name in phase.sources}
    for name in recipe.data.sources:
        if name not in known:
            raise MixtureError(
                f"data.sources names {name!r}, which neither the stores nor a phase have{nearest(name, known)}; "
                "correct it or take it out"
            )


def languages_of(
    recipe: Recipe, phase: Phase, stores: TokenSource, warn: Callable[[str], None] = print
) -> tuple[str, ...] | None:
    """Return the stores' names of the phase's languages; None for all.

    Raises:
        UserError: the stores lack some and the recipe does not allow it.
    """
    found = found_languages(phase, stores)
    if found is None:
        return None
    missing = [code for code, names in found.items() if not names]
    if missing and not recipe.data.allow_missing_languages:
        more = f" and {len(missing) - 1} more" if missing[1:] else ""
        hint = nearest(missing[0], _known_languages(stores))
        raise MixtureError(
            f"phase {phase.name!r}: the stores lack language {missing[0]!r}{hint}{more}; take it "
            "out of the phase's languages, preprocess its text, or set data.allow_missing_languages"
        )
    if missing:
        warn(f"phase {phase.name!r}: {len(missing)} languages are not in the stores: {', '.join(missing)}")
    return tuple(sorted({name for names in found.values() for name in names}))


def found_languages(phase: Phase, stores: TokenSource) -> dict[str, list[str]] | None:
    """Return the stores' names of each language that the phase asks for; None where it takes all of them."""
    wanted = wanted_languages(phase)
    known = _known_languages(stores)
    return None if wanted is None else {code: _matches(code, known) for code in wanted}


def wanted_languages(phase: Phase) -> list[str] | None:
    """Return the codes of the languages that the phase asks for; None where it takes all there are.

    Raises:
        UserError: a table of languages that cannot be read.
    """
    if phase.languages == "all":
        return None
    return _read_table(phase.languages) if isinstance(phase.languages, LanguageTable) else list(phase.languages)


def _known_languages(stores: TokenSource) -> list[str]:
    return sorted({group.language for group in stores.datasets})


def _matches(code: str, known: Iterable[str]) -> list[str]:
    """``eng_Latn`` is itself; ``eng`` is every script of the language."""
    return [name for name in known if name == code or name.startswith(f"{code}_")]


def _read_table(table: LanguageTable) -> list[str]:
    try:
        with table.table.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file, delimiter="\t"))
    except (OSError, UnicodeDecodeError) as error:
        kind = MixtureError if isinstance(error, FileNotFoundError) else UserError
        raise kind(f"{table.table}: cannot read the table of languages ({error}); name a TSV file") from None
    columns = list(rows[0]) if rows else []
    for column in (table.column, *table.where):
        if column not in columns:
            raise MixtureError(
                f"{table.table}: no column {column!r}{nearest(column, columns)}; it has {', '.join(columns) or 'none'}"
            )
    chosen = [row[table.column] for row in rows if all(row[column] in values for column, values in table.where.items())]
    if not chosen:
        raise MixtureError(f"{table.table}: no row has {table.where}; change languages.where")
    return chosen
