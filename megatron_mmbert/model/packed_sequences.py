"""What the layers need to know of a pack: its layout and its rotation tables, made once for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_mmbert.attention import SequenceLayout
from megatron_mmbert.model import rope


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron-Core's packed-sequence argument (``thd``), carrying our layout and positions to the attention.

    Attributes:
        scored_K: int64 [K], the rows that the last layer is to give, in this order; None for all.
    """

    layout: Any = None
    position_T: Any = None
    dropout_key: int = 0
    scored_K: Tensor | None = None

    @classmethod
    def of(
        cls, cu_seqlens: Tensor, max_seqlen: int, position_T: Tensor | None = None, dropout_key: int = 0
    ) -> PackedSequences:
        """
        Args:
            cu_seqlens: int32 [S+1], the samples' boundaries.
            max_seqlen: the longest sample.
            position_T: int [T], by default restarting at 0 in every sample.
            dropout_key: 64 bits that fix the pack's dropout masks.
        """
        layout = SequenceLayout(cu_seqlens, max_seqlen)
        if position_T is not None:
            layout.cache["tokens"] = len(position_T)  # else counted from the boundaries, for which the host would wait
        else:
            starts = cu_seqlens[:-1].long()[layout.sample_of_token]
            position_T = torch.arange(layout.tokens, device=cu_seqlens.device) - starts
        return cls(
            qkv_format="thd",
            cu_seqlens_q=cu_seqlens,
            cu_seqlens_kv=cu_seqlens,
            max_seqlen_q=max_seqlen,
            max_seqlen_kv=max_seqlen,
            layout=layout,
            position_T=position_T,
            dropout_key=dropout_key,
        )

    def cos_sin(self, theta: float, width: int) -> tuple[Tensor, Tensor]:
        """Rotation tables for theta, computed once for this pack."""
        return self.layout.derive(("rope", theta, width), lambda: rope.cos_sin(self.position_T, theta, width))
