"""A tokenizer, two stores and a recipe small enough to train in a second, made of generated text."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import yaml

from megatron_mmbert.data.preprocess.run import PreprocessJob, preprocess
from megatron_mmbert.tokenizer.settings import Settings
from megatron_mmbert.tokenizer.train import train_tokenizer

VOCAB = 384
_WORDS = {
    "aaa_Latn": "the cat sat on a mat and saw its own tail turn around".split(),
    "bbb_Latn": "der Hund lief durch den Wald bis an einen See ohne Namen".split(),
    "ccc_Cyrl": "река течёт мимо дома где живёт старый рыбак и его сын".split(),
}


def write_corpus(folder: Path, documents: int, seed: int) -> Path:
    """One .jsonl file per language."""
    folder.mkdir(parents=True)
    for language, words in _WORDS.items():
        draw = random.Random(f"{seed}{language}")
        texts = [" ".join(draw.choices(words, k=draw.randint(20, 90))) for _ in range(documents)]
        rows = (json.dumps({"id": str(n), "text": text}, ensure_ascii=False) + "\n" for n, text in enumerate(texts))
        (folder / f"{language}.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def make_run(folder: Path, **changes: Any) -> Path:
    """Everything that a phase needs; returns the recipe's path. ``changes`` replace top-level sections."""
    train = write_corpus(folder / "train", 30, seed=1)
    heldout = write_corpus(folder / "held", 3, seed=2)
    tokenizer = folder / "tokenizer"
    train_tokenizer([train], tokenizer, Settings(vocab_size=VOCAB))
    for name, text in (("store", train), ("heldout", heldout)):
        preprocess(PreprocessJob(inputs=(text,), tokenizer=tokenizer, output=folder / name, workers=1))
    batch = {"tokens_per_step": 512, "tokens_per_micro_batch": 256}
    common = {"max_length": 64, "lr": 1e-3, "batch": batch}
    recipe = {
        "name": "tiny-run",
        "seed": 5,
        "model": {
            "num_layers": 3,
            "hidden_size": 32,
            "ffn_hidden_size": 48,
            "num_attention_heads": 2,
            "vocab_size": VOCAB,
            "max_length": 128,
            "window_each_side": 8,
        },
        "tokenizer": {"path": str(tokenizer)},
        "data": {"stores": [str(folder / "store")]},
        "evaluation": {"stores": [str(folder / "heldout")]},
        "logging": {"peak_tflops": 1.0, "tensorboard": False},
        "checkpoint": {"every_tokens": 2500, "keep_last": 3},
        "phases": [
            {"name": "first", "tokens": 6000, "mask_ratio": 0.3, "languages": ["aaa", "bbb_Latn"], **common},
            {
                "name": "second",
                "tokens": 3000,
                "mask_ratio": 0.15,
                "rope_theta": 160_000,
                **common,
                "max_length": 128,
                "schedule": {"decay_tokens": 3000},
            },
        ],
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe | changes), encoding="utf-8")
    return path
