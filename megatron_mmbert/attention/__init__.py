"""Attention over packed samples: one contract (:mod:`.plan`), several engines, chosen by name."""

from __future__ import annotations

from torch import Tensor

from megatron_mmbert.attention import eager, torch_sdpa
from megatron_mmbert.attention.plan import Engine, Layout

ENGINES: dict[str, Engine] = {"torch": torch_sdpa.attend, "eager": eager.attend}

__all__ = ["ENGINES", "Engine", "Layout", "attend"]


def attend(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window_each_side: int | None,
    engine: str = "torch",
) -> Tensor:
    """Attention of packed samples by the engine of that name.

    Args:
        q_THD, k_THD, v_THD: [T, H, D], any float dtype.
        cu_seqlens: int32 [S+1], from 0 to T.
        max_seqlen: the longest sample, in tokens.
        window_each_side: visible tokens on each side of a token, itself not counted; None for the whole sample.

    Returns:
        out_THD in the dtype of q_THD.
    """
    return ENGINES[engine](q_THD, k_THD, v_THD, Layout(cu_seqlens, max_seqlen), window_each_side)
