"""The example pipeline of datatrove: its corpus, its command, and what its store must be."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer
from support import ROOT

CORPORA = (ROOT / "../shared/data/corpus", ROOT / "examples/sample_corpus/train")
NAMES = ("deu_Latn", "eng_Latn", "rus_Cyrl", "cmn_Hani")
VOCAB = 2000


def datatrove_python() -> str:
    """The interpreter that has requirements/datatrove.txt; the test is skipped where none is named."""
    python = os.environ.get("MMBERT_DATATROVE_PYTHON")
    if not python:
        pytest.skip("MMBERT_DATATROVE_PYTHON names no Python with requirements/datatrove.txt")
    return python


def make_inputs(folder: Path, documents: int = 30) -> tuple[Path, Path]:
    """A corpus of real text, some of it twice, and its tokenizer."""
    source = next(each for each in CORPORA if (each / "eng_Latn.jsonl").exists())
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    for name in NAMES:
        lines = (source / f"{name}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:documents]
        (corpus / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    (corpus / "again.jsonl").write_bytes((corpus / "eng_Latn.jsonl").read_bytes())
    train_tokenizer([corpus / f"{name}.jsonl" for name in NAMES], folder / "tokenizer", Settings(vocab_size=VOCAB))
    return corpus, folder / "tokenizer"


def command(python: str, corpus: Path, tokenizer: Path, output: Path, *options: str) -> list[str]:
    script = str(ROOT / "examples/datatrove/pipeline.py")
    return [python, script, str(corpus), "--tokenizer", str(tokenizer), "--output", str(output), *options]


def environment(base: dict[str, str]) -> dict[str, str]:
    return base | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def check_store(output: Path, tokenizer: Path, documents: int = 30) -> None:
    """Few of the English documents twice, none in Chinese; byte for byte what preprocessing makes of those kept."""
    store = Store.open(output / "store")
    counts = {each.language: each.documents for each in store.datasets}
    # The bundled corpus has more short documents than the other, which Gopher's filter leaves out.
    assert "cmn_Hani" not in counts and all(documents / 4 < count <= documents for count in counts.values()), counts
    assert set(counts) == {"deu_Latn", "eng_Latn", "rus_Cyrl"}
    kept: dict[str, list[str]] = {}
    for file in sorted((output / "kept").glob("*.jsonl.gz")):
        for line in gzip.open(file, "rt", encoding="utf-8"):
            record = json.loads(line)
            kept.setdefault(record["metadata"]["language"], []).append(record["text"])
    (output / "again").mkdir()
    for language, texts in kept.items():
        lines = (json.dumps({"text": text}) + "\n" for text in texts)
        (output / "again" / f"{language}.jsonl").write_text("".join(lines), encoding="utf-8")
    job = PreprocessJob(inputs=(output / "again",), tokenizer=tokenizer, output=output / "preprocessed", workers=1)
    preprocess(job)
    for file in (output / "preprocessed").glob("shard-*"):
        assert file.read_bytes() == (output / "store" / file.name).read_bytes()


def train_on(output: Path, tokenizer: Path) -> None:
    """A few steps on the store."""
    shape = {"num_layers": 2, "hidden_size": 16, "ffn_hidden_size": 16, "num_attention_heads": 2, "max_length": 128}
    batch = {"tokens_per_step": 512, "tokens_per_micro_batch": 256}
    phase = {"name": "first", "tokens": 2048, "mask_ratio": 0.3, "max_length": 64, "lr": 1e-3, "batch": batch}
    recipe = {
        "name": "trove",
        "model": shape | {"vocab_size": VOCAB},
        "tokenizer": {"path": str(tokenizer)},
        "data": {"stores": [str(output / "store")]},
        "logging": {"peak_tflops": 1.0, "tensorboard": False},
        "phases": [phase | {"languages": "all"}],
    }
    (output / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    pretrain = [sys.executable, "-m", "megatron_mmbert", "pretrain", str(output / "recipe.yaml"), "--phase", "first"]
    done = subprocess.run(
        [*pretrain, "--output", str(output / "run")], env=environment(dict(os.environ)), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
