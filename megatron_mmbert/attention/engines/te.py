"""Transformer Engine's attention over packed sequences (cuDNN or FlashAttention, its choice). Not yet run on a GPU."""

from __future__ import annotations

from functools import cache
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from torch import Tensor

from megatron_mmbert.attention.interface import Request, SequenceLayout, flash_unsupported_reason, window_pair
from megatron_mmbert.kernels.fp8 import INSTALL_HINT, fp8_disabled
from megatron_mmbert.utils.te_import import te_problem

__all__ = ["INSTALL_HINT", "attend", "unsupported_reason"]
_TWO_SIDED_WINDOWS = (2, 12)  # the first version whose cuDNN path takes a two-sided window over packed sequences


def unsupported_reason(request: Request) -> str | None:
    if problem := te_problem():
        return problem
    if request.window_each_side is not None and find_spec("flash_attn") is None and _version() < _TWO_SIDED_WINDOWS:
        return "two-sided windows over packed sequences need Transformer Engine 2.12 or flash-attn"
    return flash_unsupported_reason(request)


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.interface`."""
    tokens, heads, width = q_THD.shape
    bounds, longest = layout.cu_seqlens, layout.max_seqlen
    with fp8_disabled():  # one module serves all layers, which FP8's bookkeeping does not allow
        out = _module(heads, width, window_each_side)(
            *(x.contiguous() for x in (q_THD, k_THD, v_THD)),
            cu_seqlens_q=bounds,
            cu_seqlens_kv=bounds,
            max_seqlen_q=longest,
            max_seqlen_kv=longest,
        )
    return out.view(tokens, heads, width)


@cache
def _module(heads: int, width: int, window_each_side: int | None) -> Any:
    from transformer_engine.pytorch import DotProductAttention

    return DotProductAttention(
        heads,
        width,
        attention_dropout=0.0,
        qkv_format="thd",
        attn_mask_type="padding",
        window_size=window_pair(window_each_side),
    )


def _version() -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in version("transformer-engine").split(".")[:2])
    except (PackageNotFoundError, ValueError):
        return (0, 0)
