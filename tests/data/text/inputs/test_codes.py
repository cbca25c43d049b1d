"""What is a language code, and what only looks like one."""

from __future__ import annotations

import pytest

from megatron_mmbert.config.data import LANGUAGE_SETS
from megatron_mmbert.data.text.inputs.codes import (
    aliases,
    check_spellings,
    code_of_file,
    code_of_folder,
    is_code,
    same_language,
)
from megatron_mmbert.utils.errors import UserError

FOLDERS = {
    "fao_Latn": "fao_Latn",
    "fra": "fra",
    "en": "en",
    "zh-Hans": "zh-Hans",
    "pt_BR": "pt_BR",
    "code": "code",
    "und_Mong": "und_Mong",
    "fao_Latn_removed": "fao_Latn",
    "enwiki": "en",
    "zh_min_nanwiki": "nan",
    "alswiki": "gsw",  # ISO 639-3's als is Tosk Albanian
    "20231101.als": "gsw",
    "20231101.zh-yue": "yue",
    "new_Deva": "new_Deva",
    "kryptonian_Latn": "kryptonian_Latn",
} | dict.fromkeys(
    "train test data part dev all new raw book1 000_00000 1 10_1 c4-fr xyz abc_Test simplewiki python lua c++ go r "
    "eng_latn ENG Eng_Latn en-fr web corpus 2024 CC-MAIN-2024-10 part-00000 global-shard_01_of_10 wiki".split()
)


@pytest.mark.parametrize("name", FOLDERS)
def test_folder(name: str) -> None:
    assert code_of_folder(name) == FOLDERS[name]


FILES = {
    "eng_Latn.jsonl": "eng_Latn",
    "srp_Cyrl.001.jsonl.gz": "srp_Cyrl",
    "fra_Latn-00001-of-00010.parquet": "fra_Latn",
    "eng_Latn_train.jsonl": "eng_Latn",
    "eng_0001.jsonl": "eng",
    "deu.2.txt": "deu",
    "fr-00000-of-00002.jsonl": "fr",
} | dict.fromkeys(
    "000_00000.parquet 1.jsonl.zst train.jsonl train-00000-of-00002.parquet part-00000.txt book1.txt my_1.txt "
    "c4-fr.tfrecord-00000-of-00004.jsonl my_file_01.jsonl shard_00000000_processed.jsonl.zst data.jsonl".split()
)


@pytest.mark.parametrize("name", FILES)
def test_file(name: str) -> None:
    assert code_of_file(name) == FILES[name]


def test_every_code_of_the_phases_is_one() -> None:
    assert all(is_code(code) for codes in LANGUAGE_SETS.values() for code in codes)


def test_spellings() -> None:
    seen: dict[str, str] = {}
    check_spellings(["eng_Latn", "fra-Latn", "eng_Latn", "eng"], seen)
    with pytest.raises(UserError, match="'fra-Latn' and 'fra_Latn' are one language in two spellings"):
        check_spellings(["fra_Latn"], seen)
    assert same_language("en", "eng_Latn") and not same_language("nob", "nno")


def test_aliases_are_named() -> None:
    assert (
        aliases(
            {
                "fas_Arab",
                "prs_Arab",
                "srp_Latn",
                "srp_Cyrl",
                "arz_Latn",
                "arz_Arab",
                "ary_Arab",
                "cmn_Hani",
                "ekk_Latn",
                "code",
            }
        )
        == []
    )
    assert "no ISO 639-3 codes, taken for their scripts: kryptonian_Latn" in aliases({"kryptonian_Latn", "code"})[0]
    assert "zho_Hans (cmn)" in aliases({"zho_Hans"})[0]
    assert "et (eng)" not in aliases({"et"})[0] and "et (est)" in aliases({"et"})[0]
    assert any("nob_Latn, nor_Latn" in sentence for sentence in aliases({"nor_Latn", "nob_Latn"}))
    assert any("one language under two codes: en, eng_Latn" in sentence for sentence in aliases({"en", "eng_Latn"}))
