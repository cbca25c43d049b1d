"""A tiny checkpoint and its tokenizer."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megatron_mmbert import parallel
from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.tensor_reader import write_tensors
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.convert.name_mapping import hf_names, reorder_rows_for_megatron
from megatron_mmbert.model.parameter_names import parameter_shapes
from megatron_mmbert.tokenizer.load import load_tokenizer
from support.small_tokenizer import FAITHFUL, LETTERS, train_model

VOCAB = 400
RunTool = Callable[..., tuple[int, str, str]]


def make_tokenizer(folder: Path, vocab_size: int, seed: int = 0) -> Path:
    folder.mkdir(exist_ok=True)
    pick = random.Random(seed)
    texts = ["".join(pick.choices(LETTERS, k=200)) for _ in range(200)]
    options = {"vocab_size": vocab_size, "control_symbols": ["<mask>"]}
    path = train_model(folder / "tokenizer.model", texts, **options, **FAITHFUL)
    load_tokenizer(path).save_pretrained(folder)
    return folder


def tiny_model(**changes: Any) -> ModelConfig:
    """Two global and two local layers; the window is mmBERT's."""
    values = {"num_layers": 4, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 2}
    return ModelConfig(**{**values, "vocab_size": VOCAB, "max_length": 512, **changes})


def random_weights(model: ModelConfig, seed: int = 1) -> dict[str, Tensor]:
    """Weights large enough that theta, window and GELU each show in the logits, under Hugging Face's names."""
    draw = torch.Generator().manual_seed(seed)
    weights = {}
    names = hf_names(model.num_layers)
    for ours, shape in parameter_shapes(model).items():
        name = names[ours]
        drawn = torch.randn(shape, generator=draw)
        weights[name] = 1 + 0.3 * drawn if name.endswith("norm.weight") else 0.25 * drawn
    return weights


def make_checkpoint(path: Path, model: ModelConfig | None = None, **meta: Any) -> Path:
    """A weights-only checkpoint of :func:`random_weights`, with two different thetas."""
    model = model or tiny_model()
    weights = random_weights(model)
    heads = model.num_attention_heads
    names = hf_names(model.num_layers).items()
    tensors = {ours: reorder_rows_for_megatron(ours, weights[theirs], heads) for ours, theirs in names}
    values: dict[str, Any] = {"rope_theta": 160_000.0, "rope_theta_local": 20_000.0, "max_length": model.max_length}
    parallel.enable_cpu_mode()
    parallel.start()  # a session fixture may run before the module's world
    write_tensors(path, CheckpointMeta(model=model, **{**values, **meta}), tensors)
    return path


def error_line(stderr: str) -> str:
    """The one sentence that a command ends with; no traceback beside it."""
    assert "Traceback" not in stderr
    lines = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, stderr
    assert stderr.rstrip().splitlines()[-1] == lines[0]
    return lines[0]
