"""The portable engine, on PyTorch's scaled-dot-product attention: fast on a CPU, correct everywhere.

Global layers run sequence by sequence, local layers block by block (:mod:`megatron_mmbert.attention.local_blocks`). A
masked key has weight exactly 0, so no bit of another sequence reaches a result.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_mmbert.attention.interface import Request, SequenceLayout
from megatron_mmbert.attention.local_blocks import band_mask, block_size


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.interface` for the contract."""
    if window_each_side is None or window_each_side >= layout.max_seqlen - 1:
        return _per_sample(q_THD, k_THD, v_THD, layout)
    return _blockwise(q_THD, k_THD, v_THD, layout, window_each_side)


def _per_sample(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout) -> Tensor:
    # split, not slices: its backward is one concatenation instead of one T-sized tensor of zeros per sample
    parts = zip(*(x.split(layout.lengths) for x in (q_THD, k_THD, v_THD)), strict=True)
    outputs = [
        F.scaled_dot_product_attention(*(x.transpose(0, 1).unsqueeze(0) for x in part)).squeeze(0).transpose(0, 1)
        for part in parts
    ]
    return torch.cat(outputs)


def _blockwise(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window: int) -> Tensor:
    tokens, heads, width = q_THD.shape
    block = block_size(window)
    blocks = math.ceil(tokens / block)
    mask = layout.derive(
        ("band", window, q_THD.dtype), lambda: band_mask(layout, window, blocks, q_THD.dtype).unsqueeze(1)
    )
    tail = blocks * block - tokens
    q_NHBD = F.pad(q_THD, (0, 0, 0, 0, 0, tail)).view(blocks, block, heads, width).transpose(1, 2)
    out_NHBD = F.scaled_dot_product_attention(
        q_NHBD, _neighbours(k_THD, block, tail), _neighbours(v_THD, block, tail), attn_mask=mask
    )
    return out_NHBD.transpose(1, 2).reshape(blocks * block, heads, width)[:tokens]


def _neighbours(x_THD: Tensor, block: int, tail: int) -> Tensor:
    """Return [N, H, 3 * block, D]: for each block of tokens, the block before it, itself and the block after it."""
    padded = F.pad(x_THD, (0, 0, 0, 0, block, block + tail))
    x_NBHD = padded.view(-1, block, *x_THD.shape[1:])
    return torch.cat((x_NBHD[:-2], x_NBHD[1:-1], x_NBHD[2:]), dim=1).transpose(1, 2)


def unsupported_reason(request: Request) -> str | None:
    """Runs everywhere."""
    return None
