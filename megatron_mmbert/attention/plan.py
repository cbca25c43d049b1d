"""The attention contract: packed samples, bidirectional, global or within a window; never across samples.

Every engine takes ``q_THD, k_THD, v_THD`` (T packed tokens, H heads of this rank, D head width), the boundaries of
the samples and the window, and gives ``out_THD``. A :class:`Layout` says where samples lie; it is made once per pack,
and engines keep what they derive from it (masks, index lists) in its ``cache``, so that 22 layers share the work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor

Derived = TypeVar("Derived")


@dataclass
class Layout:
    """Where the samples of one pack lie.

    Attributes:
        cu_seqlens: int32 [S+1], the samples' boundaries, from 0 to T; on the device of q, k, v.
        max_seqlen: length of the longest sample, or any bound above it.
    """

    cu_seqlens: Tensor
    max_seqlen: int
    cache: dict[Any, Any] = field(default_factory=dict, repr=False)

    @property
    def lengths(self) -> list[int]:
        """Samples' lengths in tokens, on the host."""
        return self.derive("lengths", lambda: torch.diff(self.cu_seqlens).tolist())

    @property
    def tokens(self) -> int:
        """T."""
        return self.derive("tokens", lambda: sum(self.lengths))

    @property
    def sample_of_token(self) -> Tensor:
        """int64 [T]: the sample that each token belongs to."""
        return self.derive("sample_of_token", self._sample_of_token)

    def _sample_of_token(self) -> Tensor:
        lengths = torch.diff(self.cu_seqlens)
        samples = torch.arange(len(lengths), device=lengths.device)
        return torch.repeat_interleave(samples, lengths, output_size=self.tokens)

    def derive(self, key: Any, make: Callable[[], Derived]) -> Derived:
        """``make()``, computed at most once for this pack."""
        if key not in self.cache:
            self.cache[key] = make()
        return self.cache[key]


Engine = Callable[[Tensor, Tensor, Tensor, Layout, int | None], Tensor]
"""``engine(q_THD, k_THD, v_THD, layout, window_each_side) -> out_THD``; window None means the whole sample."""
