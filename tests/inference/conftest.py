"""A tiny model folder as transformers writes it, with a tokenizer of this project."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from support.small_tokenizer import LETTERS
from support.tiny_export import make_export
from transformers import ModernBertForMaskedLM

from megatron_mmbert.inference import Model, load_model


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_export(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def model(folder: Path) -> Model:
    return load_model(folder)


@pytest.fixture(scope="session")
def theirs(folder: Path) -> ModernBertForMaskedLM:
    return ModernBertForMaskedLM.from_pretrained(folder, attn_implementation="sdpa").eval()


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Of 0 to some 900 tokens, in no order."""
    pick = random.Random(1)
    return ["".join(pick.choices(LETTERS, k=length)) for length in (300, 5, 0, 1200, 90, 2100, 1, 700)]
