"""The kinds of output that commands write, each recognized by files it always has and holding nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from megatron_mmbert.utils.outputs import OutputKind

_TOKENIZER = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)


def _head_names_project(file: str) -> Callable[[Path], bool]:
    """Return a check that the first bytes of ``file`` name this project's format: other tools have such files too."""

    def check(folder: Path) -> bool:
        with (folder / file).open("rb") as stream:
            return b"megatron_mmbert" in stream.read(4096)

    return check


def _has_keys(*keys: str) -> Callable[[Path], bool]:
    def check(file: Path) -> bool:
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return False
        return isinstance(values, dict) and all(key in values for key in keys)

    return check


def _is_png(file: Path) -> bool:
    with file.open("rb") as stream:
        return stream.read(8) == b"\x89PNG\r\n\x1a\n"


STORE = OutputKind(
    "a token store",
    ("manifest.json",),
    (
        "manifest.json",
        "made_from.json",
        "skipped.jsonl",
        "sentences.json",
        "shard-*.bin",
        "shard-*.idx",
        "shard-*.crc32",
    ),
    _head_names_project("manifest.json"),
)
PARTITION = OutputKind(
    "a partition of a token store",
    ("part.json",),
    ("part.json", "made_from.json", "skipped.jsonl", "sentences.json", "journal.jsonl", "*.bin"),
    _head_names_project("part.json"),
)
MDS = OutputKind(
    "a folder of MDS shards",
    ("index.json",),
    ("index.json", "*/index.json", "*/shard.*.mds", "*/shard.*.mds.zstd"),
    lambda folder: _has_keys("version", "shards")(folder / "index.json"),
)
CHECKPOINT = OutputKind(
    "a checkpoint",
    ("checkpoint.json", "checksums.json"),
    ("checkpoint.json", "checksums.json", ".metadata", "metadata.json", "common.pt", "*.distcp", "merge_report.json"),
)
MODEL_FOLDER = OutputKind(
    "a Hugging Face model folder",
    ("config.json",),
    (
        "config.json",
        "model.safetensors",
        "model-*-of-*.safetensors",
        "model.safetensors.index.json",
        "checksums.json",
        "identity.json",
        "recipe.yaml",
        "README.md",
        "merge_report.json",
        *_TOKENIZER,
    ),
    lambda folder: any(folder.glob("model*.safetensors")),
)
TOKENIZER = OutputKind(
    "a tokenizer",
    ("tokenizer.model", "tokenizer.json"),
    (*_TOKENIZER, "training.json", "skipped.jsonl", "checksums.json"),
)
HELD_OUT_SPLIT = OutputKind(
    "a split made by this command",
    ("split.json", "train"),
    ("split.json", "skipped.jsonl", "train/*.jsonl", "heldout/*.jsonl"),
)
EMBEDDINGS = OutputKind(
    "a folder of embeddings or scores", ("index.json",), ("index.json", "rows.jsonl", "checksums.json", "part-*")
)
REPORT = OutputKind(
    "a report of a run",
    ("summary.json", "report.md"),
    ("summary.json", "report.md", "run.png", "bits_per_byte.png"),
)
EVALUATION = OutputKind(
    "a folder of evaluate's results",
    ("evaluation.json",),
    ("evaluation.json", "results.json", "report.md", "report.html", ".*.tmp", "cells/*", "vectors/*"),
    _head_names_project("evaluation.json"),
)
EVALUATION_CELL = OutputKind("a result of evaluate")
DATA_REPORT = OutputKind(
    "a report of a token store",
    ("index.html", "data_report.json"),
    ("index.html", "data_report.json", "languages.png", "lengths.png", "epochs.png"),
    _head_names_project("data_report.json"),
)
SCORES = OutputKind("a file of held-out scores", recognizes=_has_keys("after"))
PLAN = OutputKind("a plan", recognizes=_has_keys("machine", "phases", "total"))
NODE_RECORD = OutputKind("a record of a node", recognizes=_has_keys("package numpy"))
PNG_IMAGE = OutputKind("a PNG image", recognizes=_is_png)
