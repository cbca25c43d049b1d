"""A small SentencePiece model, laid out as this project's tokenizers are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import sentencepiece

LETTERS = "etaoin shrdlu cmfwyp"
"""The text of tiny models."""
FAITHFUL = {"add_dummy_prefix": False, "remove_extra_whitespaces": False}
"""No space before the text, and every space of it: decoding gives the text back."""


def train_model(path: Path, texts: Iterable[str], **options: Any) -> Path:
    """Train byte pairs of ``texts`` with byte fallback, by default 400 pieces; ``path`` ends in ``.model``.

    ``options``: of SentencePiece's trainer, more of them or other values.
    """
    defaults = {
        "vocab_size": 400,
        "model_type": "bpe",
        "byte_fallback": True,
        "pad_id": 0,
        "eos_id": 1,
        "bos_id": 2,
        "unk_id": 3,
        "normalization_rule_name": "identity",
        "minloglevel": 2,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")), **(defaults | options)
    )
    return path
