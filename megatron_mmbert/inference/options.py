"""Names and numbers that inference can be asked for; without torch, so that a command line lists them at once."""

from __future__ import annotations

from typing import Literal, get_args

DTYPE_NAMES = ("fp32", "bf16")
"""Number formats of the computation."""
FORMATS = ("npy", "safetensors", "jsonl")
"""Formats of the files written."""
PACK_TOKENS = 4096
"""Tokens computed at once by default."""
Pooling = Literal["mean", "cls"]
POOLINGS: tuple[Pooling, ...] = get_args(Pooling)
"""From a text's tokens to one embedding: the mean of all, or the first token's, ``<bos>``."""
