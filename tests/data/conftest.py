"""A small corpus, a small tokenizer, and the tools run as a user runs them."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT
from support.small_tokenizer import FAITHFUL, train_model

Tool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def run_tool() -> Tool:
    """``run_tool("preprocess_data", "--input", path, ...)``: the tool in a process of its own."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    return run


@pytest.fixture(scope="session")
def texts() -> dict[str, list[str]]:
    """Documents of three languages: two small ones, and one of several chunks."""
    pick = random.Random(0)
    letters = {"eng_Latn": "etaoin shrdlu", "ell_Grek": "αβγδε ζηθικ", "jpn_Jpan": "日本語文字列試験"}
    sizes = {"eng_Latn": 2500, "ell_Grek": 40, "jpn_Jpan": 25}
    return {
        language: [
            "x" + "".join(pick.choices(letters[language], k=pick.randint(20, 500))) for _ in range(sizes[language])
        ]
        for language in letters
    }


@pytest.fixture(scope="session")
def corpus(texts: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one ``.jsonl`` per language of ``texts``."""
    folder = tmp_path_factory.mktemp("corpus")
    for language, documents in texts.items():
        lines = [json.dumps({"id": f"{language}:{n}", "text": text}) for n, text in enumerate(documents)]
        (folder / f"{language}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tokenizer_file(texts: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model of 400 pieces with byte fallback."""
    path = tmp_path_factory.mktemp("tokenizer") / "tokenizer.model"
    return train_model(path, _learned(texts), user_defined_symbols=["<mask>"])


@pytest.fixture(scope="session")
def faithful_tokenizer(texts: dict[str, list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without a space before the text, and with every space of it: decoding gives the text back."""
    path = tmp_path_factory.mktemp("faithful") / "tokenizer.model"
    return train_model(path, _learned(texts), user_defined_symbols=["<mask>"], **FAITHFUL)


def _learned(texts: dict[str, list[str]]) -> list[str]:
    """The texts that the tokenizers learn from."""
    return [text for documents in texts.values() for text in documents[:40]]
