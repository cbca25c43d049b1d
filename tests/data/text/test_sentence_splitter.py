from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import ROOT
from support.made_store import made_store

from megatron_mmbert.data.preprocess.run import PreprocessJob, merge, preprocess_partition
from megatron_mmbert.data.text.records import Fields
from megatron_mmbert.data.text.sentence_splitter import (
    SentenceSplitter,
    TrainedSplitter,
    load_splitters,
    save_splitters,
    train_splitter,
)
from megatron_mmbert.tokenizer.load import load_tokenizer


def prose(seed: int, sentences: int) -> str:
    """Text with an abbreviation in the middle of many sentences."""
    pick = random.Random(seed)
    words = [f"{a}{b}" for a in ("wa", "so", "ti", "mu", "re") for b in ("lk", "nd", "m", "ple", "st", "rado")]
    made = []
    for _ in range(sentences):
        some = pick.choices(words, k=pick.randrange(6, 12))
        if pick.random() < 0.4:
            some[3:3] = ["zzgl."]
        made.append(" ".join(some).capitalize() + pick.choice("...!?"))
    return " ".join(made)


def test_punkt_learns_abbreviations_from_plain_text() -> None:
    trained = train_splitter(prose(0, 400))
    assert "zzgl" in trained.abbreviations
    text = "Das ist zzgl. einem Wort mehr. Und das hier nicht."
    assert [text[:end] for end in SentenceSplitter(trained).ends(text)] == ["Das ist zzgl. einem Wort mehr."]
    assert len(SentenceSplitter(TrainedSplitter()).ends(text)) == 2, "without learning the abbreviation ends a sentence"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("你好。再见！「好。」是", ["你好。", "再见！", "「好。」"]),
        ("यह है। वह है॥ और", ["यह है।", " वह है॥"]),
        ("یہ ہے۔ وہ ہے؟ اور", ["یہ ہے۔", " وہ ہے؟"]),
        ("ሰላም። እንዴት፧ ነህ", ["ሰላም።", " እንዴት፧"]),
        ("Titel\n\nText", ["Titel"]),
        ("no end at all", []),
        ("a line\nand another", []),
    ],
)
def test_marks_of_other_scripts(text: str, sentences: list[str]) -> None:
    ends = SentenceSplitter(TrainedSplitter()).ends(text)
    assert [text[start:end] for start, end in zip([0, *ends], ends, strict=False)] == sentences


def test_learning_does_not_depend_on_the_process(tmp_path: Path) -> None:
    """Python orders sets by a seed that differs from process to process."""
    (tmp_path / "text").write_text(prose(1, 300))
    code = (
        "import sys; from pathlib import Path\n"
        "from megatron_mmbert.data.text.sentence_splitter import save_splitters, train_splitter\n"
        "save_splitters(Path(sys.argv[2]), {'a': train_splitter(Path(sys.argv[1]).read_text())})"
    )
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code, str(tmp_path / "text"), str(tmp_path / seed)]
        subprocess.run(command, check=True, env=environment)
    assert (tmp_path / "1").read_bytes() == (tmp_path / "2").read_bytes()
    save_splitters(tmp_path / "again", load_splitters(tmp_path / "1"))
    assert (tmp_path / "again").read_bytes() == (tmp_path / "1").read_bytes()


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "in"
    folder.mkdir()
    for number, language in enumerate(("deu.1", "deu.2", "eng.1", "fra.1")):
        lines = [prose(10 * number + n, 3 if n % 2 else 60) for n in range(6)]
        lines.append(lines[0])
        rows = [json.dumps({"text": text, "lang": "xy"[n % 2]}) for n, text in enumerate(lines)]
        (folder / f"{language}.jsonl").write_text("\n".join(rows))
    return folder


@pytest.mark.parametrize("by_field", [False, True])
def test_same_bytes_for_workers_and_partitions(
    by_field: bool, inputs: Path, faithful_tokenizer: Path, tmp_path: Path
) -> None:
    """Documents longer than a sample come cut at sentence ends; their ids end to end are those of whole documents."""
    job = PreprocessJob(
        (inputs,), faithful_tokenizer, tmp_path / "one", max_length=300, dedup=True,
        fields=Fields(language="lang" if by_field else None),
    )  # fmt: skip
    store = made_store(job)
    whole = made_store(replace(job, output=tmp_path / "whole", max_length=None))
    tokenizer = load_tokenizer(faithful_tokenizer)
    assert store.manifest.duplicates > whole.manifest.duplicates > 3
    assert len(store.datasets) > 1 and store.datasets[0].documents > 2 * whole.datasets[0].documents
    for group in store.datasets:
        lengths = store.document_lengths("corpus", group.language).tolist()
        chunks = [store.tokens("corpus", group.language, n, 0, length) for n, length in enumerate(lengths)]
        assert max(lengths) <= 298
        documents = whole.document_lengths("corpus", group.language).tolist()
        expected = [whole.tokens("corpus", group.language, n, 0, length) for n, length in enumerate(documents)]
        assert np.array_equal(np.concatenate(chunks), np.concatenate(expected))
        ends = [tokenizer.decode(ids) for ids in chunks]
        assert all(text.endswith((".", "!", "?")) and not text.endswith("zzgl.") for text in ends)
        assert group.bytes == {g.language: g.bytes for g in whole.datasets}[group.language]
    paths = [tmp_path / "p1", tmp_path / "p2", tmp_path / "p3"]
    for number, path in enumerate(paths, start=1):
        preprocess_partition(replace(job, output=path, partition=(number, 3), workers=1 + number % 2))
    merge(paths, tmp_path / "merged")
    names = sorted(file.name for file in (tmp_path / "one").iterdir())
    assert "sentences.json" in names and names == sorted(file.name for file in (tmp_path / "merged").iterdir())
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "merged" / name).read_bytes(), name
