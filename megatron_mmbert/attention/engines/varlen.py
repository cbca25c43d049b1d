"""PyTorch's own FlashAttention over packed sequences, windows included. Not yet run on a GPU."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from megatron_mmbert.attention.interface import Request, SequenceLayout, flash_unsupported_reason, window_pair


def unsupported_reason(request: Request) -> str | None:
    if find_spec("torch.nn.attention.varlen") is None:
        return "this PyTorch has no torch.nn.attention.varlen"
    return flash_unsupported_reason(request)


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.interface`; only arguments that PyTorch 2.11 already has."""
    from torch.nn.attention.varlen import varlen_attn

    bounds, longest = layout.cu_seqlens, layout.max_seqlen
    q, k, v = (x.contiguous() for x in (q_THD, k_THD, v_THD))
    out = varlen_attn(q, k, v, bounds, bounds, longest, longest, window_size=window_pair(window_each_side))
    assert isinstance(out, Tensor)
    return out
