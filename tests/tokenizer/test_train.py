"""The command: what it writes, that it writes the same again, and how it ends on bad input."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tokenizer_samples import TEXTS, VOCAB_SIZE, run_tool

from megatron_mmbert.tokenizer import train
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.tokenizer.settings import MIN_VOCAB_SIZE, Settings
from megatron_mmbert.tokenizer.train import train_tokenizer
from megatron_mmbert.utils.errors import UserError

GOOD = b'{"text": "a good line of text"}\n'


def refused(folder: Path, *arguments: object) -> str:
    """The one sentence on stderr of a command that must end with status 2 and leave nothing."""
    before = sorted(folder.iterdir())
    done = run_tool("--output", folder / "out", "--vocab-size", 300, *arguments)
    assert done.returncode == 2 and not done.stdout, done
    lines = [line for line in done.stderr.splitlines() if line]
    assert len(lines) == 1 and lines[0].startswith("error: "), done.stderr
    assert sorted(folder.iterdir()) == before
    return lines[0]


def test_command_writes_the_same_folder_again(corpus: Path, trained: Tokenizer, tmp_path: Path) -> None:
    done = run_tool("--input", corpus, "--vocab-size", VOCAB_SIZE, "--output", tmp_path / "again")
    assert done.returncode == 0 and f"{VOCAB_SIZE} pieces" in done.stdout, done
    assert "sentencepiece" not in done.stderr.lower() and "trainer" not in done.stderr.lower(), done.stderr
    names = sorted(file.name for file in trained.path.iterdir())
    assert names == sorted(file.name for file in (tmp_path / "again").iterdir())
    assert "tokenizer.model" in names and "tokenizer.json" in names and "skipped.jsonl" not in names
    for name in names:
        assert (tmp_path / "again" / name).read_bytes() == (trained.path / name).read_bytes(), name


def test_the_seed_chooses_the_text(corpus: Path, trained: Tokenizer, tmp_path: Path) -> None:
    settings = Settings(vocab_size=400, max_bytes=2000, seed=1)
    one = train_tokenizer([corpus], tmp_path / "one", settings)[0]
    two = train_tokenizer([corpus], tmp_path / "two", Settings(vocab_size=400, max_bytes=2000, seed=2))[0]
    assert one.fingerprint() != two.fingerprint()


def test_report_says_what_it_was_trained_on(trained: Tokenizer) -> None:
    report = json.loads((trained.path / "training.json").read_text())
    assert report["settings"]["vocab_size"] == VOCAB_SIZE
    assert set(report["languages"]) == set(TEXTS)
    english = report["languages"]["eng_Latn"]
    assert english["documents"] == 2 and english["bytes"] == sum(len(text.encode()) for text in TEXTS["eng_Latn"])
    assert english["sampled_bytes"] > 0


def test_prefix_space_spells_the_first_word_like_any_other(trained: Tokenizer, prefixed: Tokenizer) -> None:
    assert prefixed.encode("right") == prefixed.encode("x right")[-len(prefixed.encode("right")) :]
    assert trained.encode("right") != trained.encode(" right")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (GOOD + b'{"text": "cut off\n', "eng_Latn.jsonl:2: malformed JSON"),
        (GOOD * 2 + b'{"body": "no text"}\n', "eng_Latn.jsonl:3: no field 'text'"),
        (GOOD + b'{"text": "\xff\xfe"}\n', "eng_Latn.jsonl:2: byte 0xff at column 11 is not UTF-8"),
        (GOOD + b'{"text": 5}\n', "eng_Latn.jsonl:2: field 'text' is 5, not a string"),
        (b"", "eng_Latn.jsonl: empty, no documents in it"),
    ],
)
def test_a_bad_line_is_named(content: bytes, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "eng_Latn.jsonl").write_bytes(content)
    assert sentence in refused(tmp_path, "--input", tmp_path / "eng_Latn.jsonl")


def test_bad_arguments_are_named(tmp_path: Path, corpus: Path) -> None:
    assert "nowhere: no such file or folder" in refused(tmp_path, "--input", tmp_path / "nowhere")
    assert f"pass at least {MIN_VOCAB_SIZE}" in refused(tmp_path, "--input", corpus, "--vocab-size", 100)
    assert "--vocab-size 2000000: " in refused(tmp_path, "--input", corpus, "--vocab-size", "2M")


def test_settings_out_of_range_are_named() -> None:
    for settings, name in [
        (Settings(300, temperature=1.5), "--temperature 1.5"),
        (Settings(300, temperature=float("nan")), "--temperature nan"),
        (Settings(300, character_coverage=0.0), "--character-coverage 0.0"),
        (Settings(300, max_bytes=0), "--max-bytes 0"),
        (Settings(300, max_copies=0.5), "--max-copies 0.5"),
    ]:
        with pytest.raises(UserError, match=name):
            settings.check()


def test_skip_bad_counts_and_lists(corpus: Path, tmp_path: Path) -> None:
    bad = tmp_path / "fao_Latn.jsonl"
    bad.write_bytes(GOOD + b"{broken\n" + GOOD + b'{"text": "\xff"}\n')
    output = tmp_path / "out"
    done = run_tool("--input", corpus, bad, "--vocab-size", 400, "--output", output, "--skip-bad")
    assert done.returncode == 0 and "left out 2 bad lines" in done.stdout and "fao_Latn.jsonl:4: " in done.stdout, done
    listed = [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]
    assert [entry["line"] for entry in listed] == [2, 4]
    report = json.loads((output / "training.json").read_text())
    assert report["skipped_lines"] == 2 and report["languages"]["fao_Latn"]["documents"] == 2


def test_overwrite_replaces_a_tokenizer_and_nothing_else(corpus: Path, tmp_path: Path) -> None:
    output, settings = tmp_path / "out", Settings(vocab_size=300)
    train_tokenizer([corpus], output, settings)
    with pytest.raises(UserError, match="already exists"):
        train_tokenizer([corpus], output, settings)
    assert train_tokenizer([corpus], output, Settings(vocab_size=310), overwrite=True)[0].vocab_size == 310
    work = tmp_path / "work"
    work.mkdir()
    (work / "thesis.txt").write_text("precious")
    for target in (work, work / "thesis.txt"):
        with pytest.raises(UserError, match=r"is not a tokenizer|is a file"):
            train_tokenizer([corpus], target, settings, overwrite=True)
    assert (work / "thesis.txt").read_text() == "precious"


def test_a_failed_overwrite_keeps_the_old_tokenizer(
    corpus: Path, tmp_path: Path, make_corpus: Callable[[dict[str, list[str]]], Path]
) -> None:
    output = tmp_path / "out"
    train_tokenizer([corpus], output, Settings(vocab_size=300))
    with pytest.raises(UserError, match="at most"):
        train_tokenizer([make_corpus({"eng": ["few words"]})], output, Settings(vocab_size=5000), overwrite=True)
    assert load_tokenizer(output).vocab_size == 300
    assert {path.name for path in tmp_path.iterdir()} == {"out", "made"}


def test_what_has_its_name_is_not_read_again(corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of reading it would end a whole output with a failure."""

    def load(path: Path) -> Tokenizer:
        assert tmp_path / "out" not in (path, path.parent)
        return load_tokenizer(path)

    monkeypatch.setattr(train, "load_tokenizer", load)
    tokenizer, _ = train_tokenizer([corpus], tmp_path / "out", Settings(vocab_size=VOCAB_SIZE))
    again = pickle.loads(pickle.dumps(tokenizer))  # finds its file where it lies now
    assert tokenizer.path == again.path == tmp_path / "out" and again.encode("free") == tokenizer.encode("free")
