"""A pack as the layers see it: where its sequences lie, and its rotation tables, made once for all layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.packed_seq_params import PackedSeqParams
from torch import Tensor

from megatron_mmbert.attention import SequenceLayout
from megatron_mmbert.model import rope
from megatron_mmbert.model.memory_saving.masked_rows import MaskedRows


@dataclass
class PackedSequences(PackedSeqParams):
    """Megatron-Core's packed-sequence argument (``thd``), carrying our layout and positions to the attention.

    Attributes:
        layout: the sequences' bounds.
        position_T: int [T], each token's position in its own sequence.
        dropout_keys: for each of the packs, which are of one length, 64 bits that fix its dropout masks.
        masked_rows: all that is wanted of the last layer; None for every row.
    """

    layout: Any = None
    position_T: Any = None
    dropout_keys: tuple[int, ...] = (0,)
    masked_rows: MaskedRows | None = None

    @classmethod
    def of(
        cls, cu_seqlens: Tensor, max_seqlen: int, position_T: Tensor | None = None, dropout_keys: tuple[int, ...] = (0,)
    ) -> PackedSequences:
        """Return the pack of sequences with these bounds.

        Args:
            cu_seqlens: int32 [S+1], the samples' boundaries.
            max_seqlen: the longest sample.
            position_T: int [T], by default restarting at 0 in every sample.
            dropout_keys: for each of the packs, which are of one length, 64 bits that fix its dropout masks.
        """
        layout = SequenceLayout(cu_seqlens, max_seqlen)
        if position_T is not None:
            layout.set_tokens(len(position_T))
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
            dropout_keys=dropout_keys,
        )

    def rows_of(self, layer_number: int) -> MaskedRows | None:
        """Return the rows wanted of the output of a layer, counted from 1 over all stages; None for all."""
        rows = self.masked_rows
        return rows if rows is not None and rows.layer_number == layer_number else None

    def cos_sin(self, theta: float, width: int) -> tuple[Tensor, Tensor]:
        """Return the rotation tables for theta, computed once for this pack."""
        return self.layout.derive(("rope", theta, width), lambda: rope.cos_sin(self.position_T, theta, width))
