"""The compiled BPE encoder (``_bpe.cpp``), for machines where it is built and models whose ids it reproduces.

It is built when the package is installed on a machine with a C++ compiler, and nothing needs it: without it, or with
``MMBERT_NO_COMPILED=1``, :mod:`.word_cache` gives the same ids.
"""

from __future__ import annotations

import importlib
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.tokenizer.sentencepiece_proto import Kind
from megatron_mmbert.tokenizer.whitespace import ESCAPE, RULE_NAME, SPACE
from megatron_mmbert.tokenizer.word_cache import has_separate_words

OFF = "MMBERT_NO_COMPILED"


class CompiledBPE:
    """Turns texts into ids for a model that :func:`compiled_bpe` accepts."""

    def __init__(self, module: Any, proto: Any) -> None:
        self._module = module
        texts = [piece.piece.encode() if piece.type == Kind.NORMAL else None for piece in proto.pieces]
        ids = {piece.piece: i for i, piece in enumerate(proto.pieces) if piece.type == Kind.BYTE}
        bytes_of = [ids[f"<0x{byte:02X}>"] for byte in range(256)]
        mark = ESCAPE if proto.normalizer_spec.name == RULE_NAME else SPACE
        self._encoder = module.new(texts, [float(piece.score) for piece in proto.pieces], bytes_of, mark.encode())

    def encode(self, texts: list[str]) -> list[npt.NDArray[np.int32]]:
        """Return the ids of each text, int32 [tokens], read-only.

        Raises:
            UnicodeEncodeError: a text holds half of a surrogate pair, which is no character.
        """
        return split_ids(*self._module.encode(self._encoder, texts))


def split_ids(ids: bytes, ends: bytes) -> list[npt.NDArray[np.int32]]:
    """Return one array for each text; ``ids``: int32 of all texts end to end, ``ends``: int64, the end of each."""
    return np.split(np.frombuffer(ids, np.int32), np.frombuffer(ends, np.int64)[:-1]) if ends else []


def compiled_bpe(proto: Any) -> CompiledBPE | None:
    """Return the encoder of a model; None where it is not built, or the model has pieces of other kinds."""
    if os.environ.get(OFF) or not has_separate_words(proto):
        return None
    kinds = {piece.type for piece in proto.pieces}
    if not kinds <= {Kind.NORMAL, Kind.UNKNOWN, Kind.CONTROL, Kind.BYTE} or Kind.BYTE not in kinds:
        return None
    try:
        return CompiledBPE(importlib.import_module("megatron_mmbert.tokenizer._bpe"), proto)
    except ImportError:
        return None
