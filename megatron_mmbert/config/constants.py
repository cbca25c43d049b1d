"""Numbers that are the same in every recipe and that several packages must agree on."""

from __future__ import annotations

SPECIAL_TOKENS_PER_SAMPLE = 2
"""``<bos>`` before and ``<eos>`` after the ids of every sample."""

IGNORED_LABEL = -100
"""The label of a position that no loss is computed for; ``torch.nn.functional.cross_entropy`` ignores it by default."""
