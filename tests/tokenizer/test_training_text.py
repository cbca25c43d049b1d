"""The text drawn: temperature, bounds, lines that lose nothing, the same choice for the same seed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from megatron_mmbert.data.text.conditions import parse_conditions
from megatron_mmbert.data.text.inputs.discover import AS_FOUND, InputOptions
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.tokenizer import training_text
from megatron_mmbert.tokenizer.training_text import (
    MAX_LINE_CHARACTERS,
    Sampler,
    copies_per_line,
    cut_lines,
    measure_corpus,
)
from megatron_mmbert.utils import progress
from megatron_mmbert.utils.errors import UserError

SIZES = {"large": 1_000_000, "small": 10_000}


def test_temperature_one_takes_everything_once() -> None:
    assert copies_per_line(SIZES, 1.0, 1_010_000, 10) == pytest.approx({"large": 1.0, "small": 1.0})


def test_shares_follow_the_power_of_the_size() -> None:
    copies = copies_per_line(SIZES, 0.5, 100_000, 100)
    drawn = {name: copies[name] * SIZES[name] for name in SIZES}
    assert drawn["large"] / drawn["small"] == pytest.approx(10.0)
    assert sum(drawn.values()) == pytest.approx(100_000)


def test_repeats_are_bounded_and_the_rest_goes_to_the_others() -> None:
    copies = copies_per_line(SIZES, 0.0, 500_000, 4)
    assert copies["small"] == 4
    assert sum(copies[name] * SIZES[name] for name in SIZES) == pytest.approx(500_000)


def test_nothing_is_drawn_beyond_the_bound_of_all_languages() -> None:
    assert copies_per_line({"a": 10, "b": 20}, 0.3, 10**9, 3) == {"a": 3, "b": 3}


@pytest.mark.parametrize("text", ["one two " * 3000, "字" * 9000, "a\n\n  b\n" + "x " * 5000 + "\n", " " * 9000])
def test_lines_are_bounded_and_lose_only_line_ends(text: str) -> None:
    lines = list(cut_lines(text, drop_cut_space=False))
    assert "".join(lines) == text.replace("\n", "")
    assert all(0 < len(line) <= MAX_LINE_CHARACTERS for line in lines)


def test_long_lines_are_cut_before_a_space() -> None:
    lines = list(cut_lines("one two " * 3000, drop_cut_space=False))
    assert len(lines) > 1 and all(line.startswith(" ") for line in lines[1:])
    assert list(cut_lines("one two " * 3000, drop_cut_space=True))[1].startswith(("one", "two"))


def test_sampler_is_exact_and_repeatable(make_corpus: Callable[[dict[str, list[str]]], Path]) -> None:
    lines = [f"line {n} of the text" for n in range(1000)]
    languages = measure_corpus(
        [make_corpus({"aaa": ["\n".join(lines)], "bbb": ["short text\nof two lines"]})], AS_FOUND, None
    )
    sampler = Sampler(languages, {"aaa": 0.25, "bbb": 3.0}, seed=1, prefix_space=False)
    first = list(sampler)
    assert first == list(sampler)
    assert first.count("short text") == 3 and len(first) in (255, 256, 257)
    assert sampler.drawn["aaa"] == pytest.approx(0.25 * languages["aaa"].bytes, rel=0.06)  # line ends are not drawn
    # Spread over the whole text and not only its beginning.
    assert any(int(line.split()[1]) > 990 for line in first if line.startswith("line"))
    starts = {next(iter(Sampler(languages, sampler.copies, seed, False))) for seed in range(8)}
    assert len(starts) > 1


def test_characters_are_weighted_by_what_is_drawn(make_corpus: Callable[[dict[str, list[str]]], Path]) -> None:
    languages = measure_corpus([make_corpus({"aaa": ["x" * 100], "bbb": ["y" * 10 + "\t▁"]})], AS_FOUND, None)
    weights = Sampler(languages, {"aaa": 0.1, "bbb": 5.0}, 0, False).character_weights()
    assert weights == pytest.approx({"x": 10.0, "y": 50.0})


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.txt").write_text("\n \n")
    with pytest.raises(UserError, match="empty"):
        measure_corpus([tmp_path], AS_FOUND, None)


def test_languages_by_line_and_conditions(tmp_path: Path) -> None:
    rows = [{"text": f"{language} {n}", "lang": language, "n": n} for n in range(4) for language in ("fra", "deu")]
    (tmp_path / "mixed.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    options = InputOptions(Fields("text", "lang", parse_conditions("n >= 2")))
    languages = measure_corpus([tmp_path], options, None)
    assert {name: text.documents for name, text in languages.items()} == {"deu": 2, "fra": 2}
    sampler = Sampler(languages, {"deu": 1.0, "fra": 2.0}, 0, False)
    assert sorted(sampler) == ["deu 2", "deu 3", "fra 2", "fra 2", "fra 3", "fra 3"]


def test_progress_within_one_document(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(training_text, "_CHARACTERS_AT_ONCE", 1000)
    monkeypatch.setattr(progress, "SECONDS_PER_LINE", 1e-6)
    (tmp_path / "eng_Latn.txt").write_text("abc " * 5000 + "\n")
    measured = measure_corpus([tmp_path / "eng_Latn.txt"], AS_FOUND, None)
    assert measured["eng_Latn"].characters["a"] == 5000
    assert capsys.readouterr().err.count("reading: 0.0%") >= 10
