"""A tiny model folder as transformers writes it, with a tokenizer of this project."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from support.tiny_checkpoint import make_tokenizer


def make_export(folder: Path, layers: int = 4) -> Path:
    """Write a ModernBERT of width 64 with strong random weights, and a vocabulary of 400 pieces; returns ``folder``."""
    torch.manual_seed(0)
    config = ModernBertConfig(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=2,
        max_position_embeddings=1024,
        global_rope_theta=160_000.0,
        local_rope_theta=10_000.0,
        **{"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 1},
    )
    model = ModernBertForMaskedLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
            else:
                parameter.copy_(torch.rand(parameter.shape) + 0.5)
    model.save_pretrained(folder)
    return make_tokenizer(folder, vocab_size=400)
