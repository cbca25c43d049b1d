"""A tokenizer trained once on a corpus of a few paragraphs, and real documents where they are to be had."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from support.tokenizer_samples import ROOT, TEXTS, VOCAB_SIZE, write_corpus

from megatron_mmbert.tokenizer.load import Tokenizer
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"), TEXTS)


@pytest.fixture(scope="session")
def trained(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    output = tmp_path_factory.mktemp("trained") / "tokenizer"
    return train_tokenizer([corpus], output, Settings(vocab_size=VOCAB_SIZE))[0]


@pytest.fixture(scope="session")
def prefixed(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    output = tmp_path_factory.mktemp("prefixed") / "tokenizer"
    return train_tokenizer([corpus], output, Settings(vocab_size=VOCAB_SIZE, prefix_space=True))[0]


@pytest.fixture(params=["../shared/data/corpus", "examples/sample_corpus"])
def real_folder(request: pytest.FixtureRequest) -> Path:
    """A folder of real text; the test is skipped where there is none."""
    folder = ROOT / request.param
    if not any(folder.rglob("*.jsonl")):
        pytest.skip(f"{request.param} holds no text here")
    return folder


@pytest.fixture
def real_documents(real_folder: Path) -> list[str]:
    """A few dozen documents of as many languages."""
    files = sorted(real_folder.rglob("*.jsonl"))
    files = random.Random(0).sample(files, min(60, len(files)))
    texts = [json.loads(file.read_text(encoding="utf-8").split("\n", 1)[0])["text"] for file in files]
    return [text[:20_000] for text in texts]


@pytest.fixture
def make_corpus(tmp_path: Path) -> Callable[[dict[str, list[str]]], Path]:
    return lambda texts: write_corpus(tmp_path / "made", texts)
