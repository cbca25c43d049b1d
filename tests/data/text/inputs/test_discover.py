"""The languages and splits of the layouts that people have, and the sentences where they are not clear."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_mmbert.data.text.inputs.discover import AS_FOUND, InputOptions, discover, find_files
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.utils.errors import UserError

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def make(*names: str) -> Path:
        for name in names:
            (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "corpus" / name).write_text("x\n")
        return tmp_path / "corpus"

    return make


def languages(path: Path, options: InputOptions = AS_FOUND) -> dict[str, str | None]:
    return {str(file.path.relative_to(path)): file.language for file in discover([path], options).files}


LAYOUTS = {
    "data/fao_Latn/train/000_00000.parquet": "fao_Latn",  # FineWeb2, FinePDFs
    "fra_Latn/000_00000.parquet": "fra_Latn",  # FineWeb2-HQ
    "eng_Latn/10_1.jsonl.zst": "eng_Latn",  # HPLT
    "data/enwiki/000_00000.parquet": "en",  # FineWiki
    "20231101.de/train-00000-of-00020.parquet": "de",  # Wikipedia
    "fra_Latn/cc-main/2024/part-00000.jsonl": "fra_Latn",
    "deu_Latn.jsonl": "deu_Latn",
    "deu_Latn.train.001.jsonl": "deu_Latn",
    "nested/deeper/deu_Latn-00000-of-00004.jsonl": "deu_Latn",
    "eng_Latn/book1.txt": "eng_Latn",
    "fra_Latn/fr.jsonl": "fra_Latn",
    "fra_Latn/train/new.jsonl": "fra_Latn",
    "code/ada/train-00000-of-00010.parquet": "code",
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout(name: str, make: Make) -> None:
    assert languages(make(name)) == {name: LAYOUTS[name]}


def test_a_folder_named_itself_or_a_file_in_it(make: Make) -> None:
    corpus = make("fra_Latn/train/000_00000.parquet", "fra_Latn/test/000_00000.parquet")
    for path in ("fra_Latn", "fra_Latn/train", "fra_Latn/train/000_00000.parquet", "fra_Latn/test"):
        assert [file.language for file in discover([corpus / path], AS_FOUND).files] == ["fra_Latn"]


def test_outside_of_what_is_named_a_word_is_no_language(tmp_path: Path) -> None:
    path = tmp_path / "my" / "train" / "1.jsonl"  # my: Burmese
    path.parent.mkdir(parents=True)
    path.write_text("x")
    with pytest.raises(UserError, match="no language in its path"):
        discover([path], AS_FOUND)


NOT_CLEAR = {
    "000_00000.parquet": "no language in its path",
    "train-00000-of-00002.parquet": "no language in its path",
    "python/train-00000-of-00059.parquet": "no language in its path",
    "global-shard_01_of_10/local-shard_0_of_10/shard_00000000_processed.jsonl.zst": "no language in its path",
    "c4-fr.tfrecord-00000-of-00004.jsonl": "no language in its path",
    "books/book1.txt": "no language in its path",
    "eng_latn/1.jsonl": "no language in its path",
    "eng_Latn/deu_Latn.jsonl": "'deu_Latn' or 'eng_Latn'",
    "eng_Latn/deu.jsonl": "'deu' or 'eng_Latn'",
    "eng_Latn/fra_Latn/1.jsonl": "'fra_Latn' or 'eng_Latn'",
}


@pytest.mark.parametrize("name", NOT_CLEAR)
def test_no_language_is_guessed(name: str, make: Make) -> None:
    corpus = make(name, "good/ita_Latn.jsonl")
    with pytest.raises(UserError, match=NOT_CLEAR[name]) as caught:
        discover([corpus], AS_FOUND)
    assert "--language CODE" in str(caught.value) and "--language-from" in str(caught.value)
    for options in (InputOptions(language="eng_Latn"), InputOptions(Fields("text", "lang"))):
        assert {file.language for file in discover([corpus], options).files} == {options.language}


def test_language_from_a_name_that_is_no_code(make: Make) -> None:
    corpus = make("books/train/book1.txt", "letters/book2.txt", "eng_Latn/3.txt")
    assert set(languages(corpus, InputOptions(language_from="folder")).values()) == {"books", "letters", "eng_Latn"}
    assert set(languages(corpus, InputOptions(language_from="file")).values()) == {"book1", "book2", "3"}
    make("my letters/4.txt")
    with pytest.raises(UserError, match="'my letters' is empty or has spaces"):
        discover([corpus], InputOptions(language_from="folder"))


TREE = (
    "fao_Latn/train/0.parquet",
    "fao_Latn/test/0.parquet",
    "fao_Latn_removed/train/0.parquet",
    "fra_Latn.jsonl",
    "fra_Latn.validation.jsonl",
    "ita_Latn/dev-00000-of-00001.parquet",
    "README.md",
)


def test_splits_only_when_asked(make: Make) -> None:
    corpus = make(*TREE)
    found = discover([corpus], AS_FOUND)
    assert [file.path.name for file in found.files] == ["0.parquet", "fra_Latn.jsonl"]
    assert found.notes == [
        "1 language from folder names and 1 language from file names (2 files)",
        "left out: 1 file of removed, 1 file of test, 2 files of validation; --split takes them",
        "not read: 1 file (1 .md)",
    ]
    assert languages(corpus, InputOptions(splits=("test", "removed"))) == {TREE[1]: "fao_Latn", TREE[2]: "fao_Latn"}
    assert len(languages(corpus, InputOptions(splits=("train", "test", "validation", "removed")))) == 6


def test_a_folder_or_file_that_is_named_is_asked_for(make: Make) -> None:
    corpus = make(*TREE)
    assert len(find_files([corpus / "fao_Latn/test"]).taken) == 1
    assert len(find_files([corpus / "fao_Latn_removed"]).taken) == 1
    assert len(find_files([corpus / TREE[1], corpus / TREE[0]]).taken) == 2
    # A pattern of the shell names them all.
    assert len(find_files([corpus / "fao_Latn", corpus / "fao_Latn_removed"]).taken) == 1
    assert len(find_files([corpus / "fao_Latn/test", corpus / "fao_Latn/train"]).taken) == 1
    with pytest.raises(UserError, match="no file of train, but 1 of validation; pass --split validation"):
        find_files([corpus / "ita_Latn"])


@pytest.mark.parametrize("other", ["fao_Latn.jsonl.gz", "fao_Latn.json.gz", "fao_Latn.ndjson", "fao_Latn.JSONL"])
def test_one_text_in_two_forms(other: str, make: Make) -> None:
    with pytest.raises(UserError, match="the same text again"):
        find_files([make("fao_Latn.jsonl", other)])


def test_held_out_text_is_left_out_too(make: Make) -> None:
    corpus = make("train/fao_Latn.jsonl", "heldout/fao_Latn.jsonl")
    assert languages(corpus) == {"train/fao_Latn.jsonl": "fao_Latn"}
    assert len(discover([corpus / "heldout"], AS_FOUND).files) == 1


def test_two_spellings_and_an_empty_language(make: Make) -> None:
    corpus = make("fra_Latn/1.txt", "fra-Latn/1.txt")
    with pytest.raises(UserError, match="one language in two spellings"):
        discover([corpus], AS_FOUND)
    (corpus / "fra-Latn/1.txt").rename(corpus / "fra_Latn/2.txt")
    with pytest.raises(UserError, match=r"fra-Latn: nothing in this folder of fra-Latn; download it again or remove"):
        discover([corpus], AS_FOUND)


def test_other_names_of_a_language_are_warned_of(make: Make) -> None:
    found = discover([make("zho_Hans.txt", "fra_Latn.txt")], AS_FOUND)
    assert len(found.warnings) == 1 and "zho_Hans (cmn)" in found.warnings[0]


@pytest.mark.parametrize(
    "options", [{"language": ""}, {"language": "a b"}, {"language": "fra", "language_from": "file"}]
)
def test_flags(options: dict[str, str]) -> None:
    with pytest.raises(UserError, match="--language"):
        InputOptions(**options)
