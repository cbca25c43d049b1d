"""The flash-attn package's kernel over packed sequences. Not yet run on a GPU."""

from __future__ import annotations

from importlib.util import find_spec

from torch import Tensor

from megatron_mmbert.attention.interface import Request, SequenceLayout, flash_unsupported_reason, window_pair

INSTALL_HINT = "pip install flash-attn --no-build-isolation"


def unsupported_reason(request: Request) -> str | None:
    if find_spec("flash_attn") is None:
        return "flash-attn is not installed"
    return flash_unsupported_reason(request)


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.interface`."""
    from flash_attn import flash_attn_varlen_func

    bounds, longest = layout.cu_seqlens, layout.max_seqlen
    window = window_pair(window_each_side)
    return flash_attn_varlen_func(q_THD, k_THD, v_THD, bounds, bounds, longest, longest, window_size=window)
