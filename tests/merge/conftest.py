"""Tiny Hugging Face folders made with transformers, and ways to damage and refuse them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from megatron_mmbert.convert.hf_writer import WEIGHTS
from megatron_mmbert.merge.request import MergeRequest
from megatron_mmbert.merge.run import merge_folders
from megatron_mmbert.utils.errors import UserError

transformers = pytest.importorskip("transformers")


def save_model(path: Path, seed: int, **options: object) -> Path:
    config = transformers.ModernBertConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=0, bos_token_id=2, eos_token_id=1, cls_token_id=2, sep_token_id=1,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = transformers.ModernBertForMaskedLM(config)
    torch.nn.init.normal_(model.decoder.bias)
    model.save_pretrained(path, **options)
    return path


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base, a, b (b in shards), and tokenizer files and a model card beside the base's weights."""
    root = tmp_path_factory.mktemp("zoo")
    for seed, name in enumerate(("base", "a")):
        save_model(root / name, seed)
    save_model(root / "b", 2, max_shard_size="8KB")
    (root / "base" / "tokenizer.json").write_text("{}")
    (root / "base" / "README.md").write_text("card of the base")
    (root / "base" / "optimizer.pt").write_bytes(b"x")
    return root


@pytest.fixture
def models(zoo: Path, tmp_path: Path) -> Path:
    """A copy of the zoo that a test may damage."""
    shutil.copytree(zoo, tmp_path / "zoo")
    return tmp_path / "zoo"


@pytest.fixture
def rewrite() -> Callable[[Path, dict[str, torch.Tensor | None]], None]:
    """Change tensors of a folder with one weight file; None removes one."""

    def change_tensors(folder: Path, change: dict[str, torch.Tensor | None]) -> None:
        tensors: dict[str, Any] = {**load_file(folder / WEIGHTS), **change}
        save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, folder / WEIGHTS)

    return change_tensors


@pytest.fixture
def refused(models: Path) -> Callable[..., None]:
    """Merge a and b on base with TIES and expect one sentence that holds these words, and no output."""

    def merge_and_expect(*words: str) -> None:
        with pytest.raises(UserError) as caught:
            merge_folders(MergeRequest("ties", models / "base", (models / "a", models / "b")), models / "out")
        assert all(word in str(caught.value) for word in words), str(caught.value)
        assert not (models / "out").exists() and not list(models.glob(".out*")), "a refused merge leaves nothing"

    return merge_and_expect
