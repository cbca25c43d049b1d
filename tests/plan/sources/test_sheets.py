"""The data sheets against the presets that name them, and their patterns against the layouts that are published."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from megatron_mmbert.config.data import LANGUAGE_SETS
from megatron_mmbert.config.loading import preset_recipe, presets
from megatron_mmbert.data.text.formats import is_readable
from megatron_mmbert.data.text.inputs.codes import is_code
from megatron_mmbert.plan.sources.sheets import Sheet, sheets

MMBERT = [name for name in presets() if name.startswith("mmbert")]
FILES = {
    "fineweb2": ("data/fao_Latn/train/000_00000.parquet", "data/zho_Hani/train/012_00003.parquet"),
    "fineweb2_hq": ("fra_Latn/000_00001.parquet",),
    "dclm": ("global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst",),
    "dclm_dolmino": ("data/dclm/0028/dclm-0003.json.zst",),
    "starcoder": ("python/train-00000-of-00059.parquet",),
    "prolong_code": ("thestackv1_concat_by_repo-65536/proc03-64/shard.00001.mds",),
    "pes2o": ("data/pes2o/pes2o-0000.json.gz",),
    "stackexchange_dolmino": ("data/stackexchange/stackexchange-0001.json.gz",),
    "dolmino_math": ("data/math/tulu_math/part.jsonl",),
    "prolong_textbooks": ("train/textbooks/0-0-tokenized-chunked-8192-512-32-backfill-nodups/shard.00000.mds",),
    "megawika": ("data/fr/chunk.jsonl",),
}
NOT_WANTED = {
    "fineweb2": (
        "data/fao_Latn/test/000_00000.parquet",
        "data/fao_Latn_removed/train/000_00000.parquet",
        "data/fao_Latn_removed/test/000_00000.parquet",
    ),
    "fineweb2_hq": ("fao_Latn_removed/000_00000.parquet",),
    "dclm": ("global-shard_03_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst",),
    "dclm_dolmino": ("data/pes2o/pes2o-0000.json.gz",),
    "prolong_textbooks": ("train/textbooks_dup/x/shard.00000.mds",),
}


@pytest.mark.parametrize("preset", MMBERT)
def test_every_source_of_the_presets_has_a_sheet_of_their_tokens(preset: str) -> None:
    """Shares of the phases are the tokens of mmBERT's tables, but for the two decays that the paper gives none of."""
    recipe = preset_recipe(preset, Path("t"), [Path("s")])
    assert set(recipe.data.sources) <= set(sheets())
    for phase in recipe.phases:
        named = {name: sheet.tokens.get(phase.name) for name, sheet in sheets().items()}
        if phase.name in ("pretrain", "midtrain", "decay_cont"):
            assert {name: count for name, count in named.items() if count} == phase.sources
        assert set(phase.sources) <= set(sheets())


def test_no_sheet_is_of_a_source_that_no_preset_reads() -> None:
    used = {name for preset in MMBERT for name in preset_recipe(preset, Path("t"), [Path("s")]).data.sources}
    assert set(sheets()) - used == {"fineweb2_hq"}, "a variant of fineweb2"


def test_sheets_say_where_their_figures_are_from() -> None:
    for name, sheet in sheets().items():
        assert is_code(sheet.language or "code"), name
        if sheet.download_bytes or sheet.text_bytes or sheet.published_tokens:
            assert sheet.figures, name
        for text in (sheet.title, sheet.licence, sheet.layout, sheet.figures, sheet.note):
            assert text.isprintable() and not text.endswith("."), name


@pytest.mark.parametrize("languages", [None, ["fao", "zho_Hani", "fra", "eng", "code"]])
def test_patterns_take_the_published_files_and_no_test_or_removed_ones(languages: list[str] | None) -> None:
    for name, sheet in sheets().items():
        patterns = sheet.patterns(languages)
        assert bool(patterns) == (sheet.url_list is None), name
        for file in FILES.get(name, ()):
            assert any(fnmatch(file, pattern) for pattern in patterns), (name, file)
            assert sheet.reader != "preprocess" or is_readable(file)
        for file in (*NOT_WANTED.get(name, ()), "README.md"):
            assert not any(fnmatch(file, pattern) for pattern in patterns), (name, file)
    assert set(FILES) == {name for name, sheet in sheets().items() if sheet.url_list is None}


def test_only_the_languages_of_a_recipe() -> None:
    sheet = sheets()["fineweb2"]
    assert sheet.patterns(["fao", "srp_Cyrl", "fao", "eng", "code", "no code", "a*"]) == [
        "data/fao_????/train/*",
        "data/srp_Cyrl/train/*",
    ]
    assert sheet.patterns(["eng"]) == []
    wanted = list(LANGUAGE_SETS["@mmbert_midtrain"])
    assert len(sheet.patterns(wanted)) == len(wanted) - 2  # without English and code


def test_a_sheet_needs_files() -> None:
    text = "{title: X, hub: a/b, licence: c, layout: d}"
    with pytest.raises(ValueError, match="needs either include or url_list"):
        Sheet.model_validate(yaml.safe_load(text))
