"""FlexAttention, compiled, with a block mask made from the samples' boundaries. On a CPU it has no backward."""

from __future__ import annotations

import shutil
from functools import cache
from typing import Any

import torch
from torch import Tensor

from megatron_mmbert.attention.interface import Request, SequenceLayout

BLOCK = 128  # tokens; a table of (T / BLOCK)² small integers says which blocks meet
INSTALL_HINT = "apt-get install g++"


def unsupported_reason(request: Request) -> str | None:
    if request.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"takes fp32, bf16 or fp16, not {str(request.dtype).removeprefix('torch.')}"
    if request.device == "cuda":
        return None if request.head_width >= 16 else f"takes head widths from 16 on, not {request.head_width}"
    if request.backward:
        return "has no backward on a CPU"
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        return "compiles for a CPU with g++, which is missing"
    return None


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.interface`.

    Raises:
        NotImplementedError: a gradient is wanted on a CPU.
    """
    if q_THD.device.type == "cpu" and torch.is_grad_enabled() and any(x.requires_grad for x in (q_THD, k_THD, v_THD)):
        raise NotImplementedError("FlexAttention has no backward on a CPU; train with another engine")
    mask = layout.derive(("flex", window_each_side), lambda: _block_mask(layout, window_each_side))
    # Megatron-Core's small compiled functions are switched off on a CPU by a stance that would hold here too.
    with torch.compiler.set_stance("default"):
        out = _compiled()(*(x.transpose(0, 1)[None] for x in (q_THD, k_THD, v_THD)), block_mask=mask)
    return out[0].transpose(0, 1)


@cache
def _compiled() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


def _block_mask(layout: SequenceLayout, window: int | None) -> Any:
    """Return the blocks of keys each block of queries meets: from its first sequence's start to its last one's end."""
    from torch.nn.attention.flex_attention import BlockMask

    sample, bounds, tokens = layout.sample_of_token, layout.cu_seqlens.long(), layout.tokens
    start_N = torch.arange(0, tokens, BLOCK, device=sample.device)
    last_N = (start_N + BLOCK - 1).clamp_max(tokens - 1)
    first_key_N, last_key_N = bounds[sample[start_N]], bounds[sample[last_N] + 1] - 1
    if window is not None:
        first_key_N = torch.maximum(first_key_N, start_N - window)
        last_key_N = torch.minimum(last_key_N, last_N + window)
    first_N, count_N = first_key_N // BLOCK, last_key_N // BLOCK - first_key_N // BLOCK + 1
    blocks = len(start_N)
    index_NN = (first_N[:, None] + torch.arange(blocks, device=sample.device)[None, :]) % blocks

    # A tensor, not a constant, so that local and global layers share one compiled kernel: PyTorch 2.13's second kernel
    # for a CPU in one process does not compile.
    reach = torch.full((), tokens if window is None else window, device=sample.device)

    def seen(batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (sample[query] == sample[key]) & ((query - key).abs() <= reach)

    return BlockMask.from_kv_blocks(
        count_N.int()[None, None],
        index_NN.int()[None, None],
        BLOCK_SIZE=BLOCK,
        mask_mod=seen,
        seq_lengths=(tokens, tokens),
        compute_q_blocks=sample.device.type == "cuda",
    )
