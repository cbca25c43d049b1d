"""The compiled encoder of a ``tokenizer.json`` like Gemma's (``_bpe_merges.cpp``): the library's ids, much faster.

It knows byte-pair merging of whole texts with byte fallback, where a space becomes U+2581, and added tokens that are
matched as they stand. Any other rule in a file makes the library itself take over.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.tokenizer.compiled_bpe import OFF, split_ids
from megatron_mmbert.tokenizer.special_tokens import is_byte_piece
from megatron_mmbert.tokenizer.whitespace import SPACE

_SPACE_RULE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_NO_MORE_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
"""Gemma's: the text has no space any more when this rule looks for one."""

_UNUSED = ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges")


class CompiledMerges:
    """Turns texts into ids for a file that :func:`compiled_merges` accepts."""

    def __init__(self, module: Any, description: dict[str, Any], mark_becomes: str) -> None:
        self._module = module
        model = description["model"]
        merges = [tuple(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in model["merges"]]
        bytes_of = [model["vocab"].get(f"<0x{byte:02X}>", -1) for byte in range(256)]
        added = {t["content"]: None if t["special"] else t["id"] for t in description["added_tokens"]}
        self._encoder = module.new(model["vocab"], merges, bytes_of, added, mark_becomes)

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text, int32 [tokens], read-only.

        Raises:
            UnicodeEncodeError: a text holds half of a surrogate pair, which is no character.
        """
        return split_ids(*self._module.encode(self._encoder, texts))


def compiled_merges(description: dict[str, Any]) -> CompiledMerges | None:
    """Return the encoder of a ``tokenizer.json``; None where it is not built, or the file has rules that it lacks."""
    mark = _mark_becomes(description.get("normalizer"))
    if os.environ.get(OFF) or mark is None or not _is_known(description):
        return None
    try:
        return CompiledMerges(importlib.import_module("megatron_mmbert.tokenizer._bpe_merges"), description, mark)
    except ImportError:
        return None


def _mark_becomes(normalizer: Any) -> str | None:
    """Return the character that a U+2581 of the text becomes before a space becomes one; None for other rules."""
    rules: list[Any] = normalizer.get("normalizers", [normalizer]) if isinstance(normalizer, dict) else []
    if rules == [_SPACE_RULE]:
        return SPACE
    if len(rules) == 2 and rules[1] == _SPACE_RULE and isinstance(rules[0], dict):
        escape = str(rules[0].get("content"))
        if rules[0] == _SPACE_RULE | {"pattern": {"String": SPACE}, "content": escape} and len(escape) == 1:
            return escape
    return None


def _is_known(description: dict[str, Any]) -> bool:
    """Tell if the model, the cutting of words and the added tokens are such as the encoder knows."""
    model = description["model"]
    if model["type"] != "BPE" or not model.get("byte_fallback") or any(model.get(key) for key in _UNUSED):
        return False
    if description.get("pre_tokenizer") not in (None, _NO_MORE_SPACES):
        return False
    vocab, added = model["vocab"], description["added_tokens"]
    if not all(f"<0x{byte:02X}>" in vocab or (byte < 0x80 and chr(byte) in vocab) for byte in range(256)):
        return False  # Gemma 2's tab has no piece as a byte, and needs none
    if any(is_byte_piece(part) for merge in model["merges"] if "<0x" in str(merge) for part in _parts(merge)):
        return False  # a byte would not bound a segment
    special = {token["content"] for token in added if token["special"]}
    if any("".join(_parts(merge)) in special for merge in model["merges"]):
        return False  # a text that spells such a token gets other pieces
    changed = ("single_word", "lstrip", "rstrip")
    return all(
        token["content"] and not token["normalized"] and (token["special"] or not any(token[key] for key in changed))
        for token in added
    )


def _parts(merge: Any) -> list[str]:
    return merge.split(" ", 1) if isinstance(merge, str) else merge
