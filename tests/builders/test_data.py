"""From the recipe to the loader: languages by code, missing ones named, what does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.tiny_run import write_corpus

from megatron_mmbert.builders.data import (
    check_source_names,
    data_phase,
    languages_of,
    phase_boost,
    planned_places,
    stores_of,
    tokenizer_of,
    trained_resume_points,
)
from megatron_mmbert.checkpoint.metadata import TrainedSection
from megatron_mmbert.config import load_recipe
from megatron_mmbert.data.sampling.mixture import Mixture
from megatron_mmbert.data.sampling.resume import nominal_blocks
from megatron_mmbert.data.sampling.settings import DataPhase
from megatron_mmbert.data.store.multi_store import open_stores
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer
from megatron_mmbert.utils.errors import UserError


def test_codes_match_every_script(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["phases.first.languages=[ccc, aaa_Latn]"])
    stores = open_stores(recipe.data.stores)
    assert languages_of(recipe, recipe.phase("first"), stores) == ("aaa_Latn", "ccc_Cyrl")
    assert languages_of(recipe, recipe.phase("second"), stores) is None


def test_missing_language_is_named(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["phases.first.languages=[aaa, aab_Latn, zzz]"])
    stores = open_stores(recipe.data.stores)
    with pytest.raises(UserError, match=r"lack language 'aab_Latn' \(did you mean 'aaa_Latn'\?\) and 1 more"):
        languages_of(recipe, recipe.phase("first"), stores)
    allowed = load_recipe(
        recipe_path, ["phases.first.languages=[aaa, aab_Latn, zzz]", "data.allow_missing_languages=true"]
    )
    said: list[str] = []
    assert languages_of(allowed, allowed.phase("first"), stores, said.append) == ("aaa_Latn",)
    assert "2 languages are not in the stores: aab_Latn, zzz" in said[0]


def test_languages_from_a_table(recipe_path: Path, tmp_path: Path) -> None:
    table = tmp_path / "languages.tsv"
    table.write_text("file\tphase\naaa_Latn\t1\nbbb_Latn\t2\nccc_Cyrl\t3\n")

    def choose(where: str, column: str = "file") -> tuple[str, ...] | None:
        text = f"phases.first.languages={{table: {table}, column: {column}, where: {where}}}"
        recipe = load_recipe(recipe_path, [text])
        return languages_of(recipe, recipe.phase("first"), open_stores(recipe.data.stores))

    assert choose('{phase: ["1", "3"]}') == ("aaa_Latn", "ccc_Cyrl")
    with pytest.raises(UserError, match="no column 'phas'"):
        choose('{phas: ["1"]}')
    with pytest.raises(UserError, match="no row has"):
        choose('{phase: ["9"]}')


def test_boost_by_code(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["phases.first.boost={aaa: 3.0}"])
    stores = open_stores(recipe.data.stores)
    assert phase_boost(recipe, recipe.phase("first"), stores) == {"aaa_Latn": 3.0}
    assert data_phase(recipe, recipe.phase("first"), stores).boost == {"aaa_Latn": 3.0}


def test_names_that_nothing_knows_are_refused_with_the_nearest(recipe_path: Path) -> None:
    def settings(*overrides: str) -> DataPhase:
        recipe = load_recipe(recipe_path, overrides)
        stores = open_stores(recipe.data.stores)
        check_source_names(recipe, stores)
        return data_phase(recipe, recipe.phase("first"), stores, said.append)

    said: list[str] = []
    with pytest.raises(UserError, match=r"boost names 'aaa_Lat', which the stores lack \(did you mean 'aaa_Latn'\?\)"):
        settings("phases.first.boost={aaa_Lat: 3.0}")
    with pytest.raises(UserError, match=r"boost names 'zzz'"):
        settings("phases.first.boost={zzz: 3.0}", "data.allow_missing_languages=true")
    wanted = ["phases.first.languages=[aaa, zzz]", "data.allow_missing_languages=true"]
    assert settings("phases.first.boost={zzz: 3.0}", *wanted).boost == {}
    with pytest.raises(UserError, match=r"data.sources names 'corpu', .* \(did you mean 'corpus'\?\)"):
        settings("data.sources={corpu: {tempered: false}}")
    assert settings("data.sources={web: {tempered: false}}", "phases.second.sources={web: 1}").sources is None


def test_sources_that_the_stores_lack(recipe_path: Path) -> None:
    def settings(*overrides: str) -> DataPhase:
        recipe = load_recipe(recipe_path, overrides)
        return data_phase(recipe, recipe.phase("first"), open_stores(recipe.data.stores), said.append)

    said: list[str] = []
    both = "phases.first.sources={corpus: 3, web: 1}"
    with pytest.raises(UserError, match=r"of its sources 'web'.*data.allow_missing_sources.*phases.first.sources="):
        settings(both)
    assert settings(both, "data.allow_missing_sources=true").sources == {"corpus": 3.0} and len(said) == 1
    assert "the stores have no text of its sources 'web'; the others share their part" in said[0]
    with pytest.raises(
        UserError, match=r"of its sources 'web', 'books', but of \['corpus'\]; .* phases.first.sources=\{\}"
    ):
        settings("phases.first.sources={web: 1, books: 1}", "data.allow_missing_sources=true")
    assert settings("phases.first.sources={}", "data.allow_missing_sources=true").sources is None


def test_tokenizer_of_another_size(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path, ["model.vocab_size=512"])
    with pytest.raises(UserError, match=r"has 384 ids and the model's vocab_size is 512"):
        tokenizer_of(recipe)


def test_store_of_another_tokenizer(recipe_path: Path, tmp_path: Path) -> None:

    other, _ = train_tokenizer(
        [write_corpus(tmp_path / "text", 20, seed=9)], tmp_path / "tok", Settings(vocab_size=384)
    )
    recipe = load_recipe(recipe_path)
    with pytest.raises(UserError, match="made with another tokenizer"):
        stores_of(recipe.data.stores, other)


def test_places_after_earlier_phases(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    stores = open_stores(recipe.data.stores)
    first, second = recipe.phase("first"), recipe.phase("second")
    assert planned_places(recipe, first, stores) == {}
    planned = planned_places(recipe, second, stores)
    assert {language for _, language in planned} == {"aaa_Latn", "bbb_Latn"}  # those of the first phase
    settings = data_phase(recipe, first, stores)
    section = TrainedSection(
        phase=recipe.to_dict()["phases"][0],
        sources={},
        seed=recipe.seed,
        blocks=nominal_blocks(settings),
        fingerprint=Mixture(stores, settings).fingerprint(),
    )
    # As it was trained, whatever the recipe now says of it.
    changed = load_recipe(recipe_path, ["seed=9", "phases.first.temperature=0.3", "phases.first.languages=[ccc]"])
    assert trained_resume_points(changed, [section], stores) == planned
    said: list[str] = []
    other = section.model_copy(update={"fingerprint": "f"})
    assert trained_resume_points(recipe, [other], stores, said.append) == {}
    missing = section.model_copy(update={"phase": section.phase | {"sources": {"web": 1.0}}})
    assert trained_resume_points(recipe, [missing], stores, said.append) == {}
    assert "not those it was trained with" in said[0] and "'web'" in said[1]


def test_two_stores_with_one_group(recipe_path: Path) -> None:
    recipe = load_recipe(recipe_path)
    store = recipe.data.stores[0]
    with pytest.raises(UserError, match="both hold source 'corpus'"):
        open_stores([store, store])
