"""The largest values that make sense, for recipe and flags alike: what is larger is a slip of the pen.

They are refused when they are read, and not by the memory or the patience that they would use up.
"""

from __future__ import annotations

MAX_COUNT = 10**15
"""Tokens, bytes, documents."""
MAX_LENGTH = 2**20
"""Tokens of a sample."""
MAX_PACK_TOKENS = 2**24
"""Tokens that are computed at once."""
MAX_PROCESSES = 1024
"""Worker processes that one process starts."""
MAX_RANKS = 2**20
"""GPUs, nodes, jobs."""
MAX_THETA = 1e12
"""Base of the rotary embedding."""
