"""The report of a dataset against texts made for it: what is odd is marked, what is not is not."""

from __future__ import annotations

import random

import pytest
from support.text_store import text_store, words

from megatron_mmbert.report.store.dataset_report import DatasetReport, as_json, report_datasets
from megatron_mmbert.report.store.marks import PhaseUse
from megatron_mmbert.report.store.sample import Decoder, SampleSize, readable, sampled_documents
from megatron_mmbert.tokenizer.load import Tokenizer

SIZE = SampleSize(documents=50, tokens=400)


def documents(seed: int, count: int = 40) -> list[str]:
    pick = random.Random(seed)
    return [words(pick, pick.randrange(20, 60)) for _ in range(count)]


def cyrillic(seed: int) -> list[str]:
    table = str.maketrans("banstrkmveiou", "банстркмвеиоу")
    return [text.translate(table) for text in documents(seed)]


@pytest.fixture(scope="module")
def reports(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, DatasetReport]:
    texts = {
        "aaa_Latn": documents(1),
        "aab_Cyrl": documents(2),
        "aac_Cyrl": cyrillic(3),
        "aad_Latn": [*documents(4), *["the very same"] * 8],
        "aae_Latn": [text for text in documents(5, 20) for _ in range(2)],
        "aaf_Latn": [f"{text}\nbead van stein of all\nvat korn and keir" for text in documents(6)],
        "aag_Latn": [f"{text} \ufffd\ufffd" for text in documents(7)],
        "aah": cyrillic(8),
        "code": ["if (a < b) { return; }", "</script><!-- \u202e\0"],
    }
    folder = tmp_path_factory.mktemp("store")
    store = text_store(folder, tokenizer, texts)
    uses = {("web", "aaa_Latn"): [PhaseUse("first", 0.5, 3, 3), PhaseUse("second", 0.5, 3, 6)]}
    done: list[int] = []
    found = {r.dataset.language: r for r in report_datasets(store, Decoder(tokenizer), SIZE, uses, done.append)}
    assert len(done) == len(texts) and min(done) > 0
    return found


@pytest.mark.parametrize(
    ("language", "kinds"),
    [
        ("aaa_Latn", {"epochs"}),
        ("aab_Cyrl", {"script"}),
        ("aac_Cyrl", {"byte fallback"}),
        ("aad_Latn", {"repeated document", "duplicates"}),
        ("aae_Latn", {"duplicates"}),
        ("aaf_Latn", {"repeated lines"}),
        ("aag_Latn", {"damaged characters"}),
        ("aah", {"byte fallback"}),
        ("code", set()),
    ],
)
def test_what_is_odd_is_marked(reports: dict[str, DatasetReport], language: str, kinds: set[str]) -> None:
    assert {mark.kind for mark in reports[language].marks} - {"damaged characters"} | (
        kinds & {"damaged characters"}
    ) == kinds, reports[language].marks


def test_marks_say_how_much(reports: dict[str, DatasetReport]) -> None:
    said = {name: [mark.text for mark in report.marks] for name, report in reports.items()}
    assert said["aab_Cyrl"] == ["the code says aab_Cyrl, and 100% of the letters are Latn"]
    assert said["aad_Latn"][0] == "one document is there 8 times, 16.7% of all"
    assert said["aaa_Latn"] == ["read 6 times by the end of phase second"]
    repeated = reports["aad_Latn"].repeated
    assert repeated is not None and (repeated.document, repeated.text) == (40, "the very same")
    lines = [(line.text, line.documents) for line in reports["aaf_Latn"].sample.common_lines]
    assert sorted(lines) == [("bead van stein of all", 40), ("vat korn and keir", 40)]
    assert reports["aaf_Latn"].repeated_lines == pytest.approx(78 / 120)


def test_samples_are_the_documents_themselves(reports: dict[str, DatasetReport]) -> None:
    texts = documents(1)
    for excerpt in reports["aaa_Latn"].sample.excerpts:
        assert excerpt.text == texts[excerpt.document][:500]
    assert reports["aaa_Latn"].sample.documents == 40
    assert reports["aaa_Latn"].bytes_per_token == pytest.approx(
        sum(map(len, texts)) / reports["aaa_Latn"].dataset.tokens
    )


def test_a_sample_is_seeded_and_bounded(reports: dict[str, DatasetReport]) -> None:
    dataset = reports["aaa_Latn"].dataset._replace(documents=10**10)
    numbers = sampled_documents(dataset, SIZE)
    assert numbers == sampled_documents(dataset, SIZE) and len(set(numbers)) == len(numbers) == 50
    assert max(numbers) > 10**9 and numbers != sampled_documents(dataset, SampleSize(50, 400, seed=1))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\0b", "a[U+0000]b"),
        ("\u202eabc\u2066", "[U+202E]abc[U+2066]"),
        ("a\nb\tc", "a\nb\tc"),
        ("می\u200cشود", "می\u200cشود"),
        ("\ud800 \u2028 \ufeff \x1b[31m", "[U+D800] [U+2028] [U+FEFF] [U+001B][31m"),
    ],
)
def test_what_cannot_be_seen_is_named(text: str, shown: str) -> None:
    assert readable(text) == shown


def test_numbers_for_programs(reports: dict[str, DatasetReport]) -> None:
    found = as_json(reports["aad_Latn"])
    assert found["copies"]["duplicates"] == 7 and found["documents"] == 48
    assert found["sample"]["fitting_script_share"] == 1.0 and found["sample"]["scripts"].keys() == {"Latn"}
