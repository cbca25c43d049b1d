"""A tiny model folder as transformers writes it, with a tokenizer of this project."""

from __future__ import annotations

import random
from pathlib import Path

import sentencepiece
import torch
from transformers import ModernBertConfig, ModernBertForMaskedLM

from megatron_mmbert.tokenizer.load import load_tokenizer

LETTERS = "etaoin shrdlu cmfwyp"


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
    pick = random.Random(0)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter("".join(pick.choices(LETTERS, k=200)) for _ in range(200)),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        **{"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3, "control_symbols": ["<mask>"]},
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        add_dummy_prefix=False,
        minloglevel=2,
    )
    load_tokenizer(folder / "tokenizer.model").save_pretrained(folder)
    return folder
