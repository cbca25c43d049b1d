"""The reference engine: all T x T scores in fp32 and one mask. Slow, and meant to be obviously right."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_mmbert.attention.interface import Request, SequenceLayout


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """Return softmax attention under :func:`visible`, scores and sums in fp32 (fp64 for fp64 input)."""
    score_dtype = torch.promote_types(q_THD.dtype, torch.float32)
    q, k, v = (x.to(score_dtype).transpose(0, 1) for x in (q_THD, k_THD, v_THD))
    scores_HTT = q @ k.transpose(1, 2) * q.shape[-1] ** -0.5
    weights_HTT = scores_HTT.masked_fill(~visible(layout, window_each_side), float("-inf")).softmax(-1)
    return (weights_HTT @ v).transpose(0, 1).to(q_THD.dtype)


def visible(layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """Return bool [T, T]: query i (row) sees key j, of the same sequence and at most ``window_each_side`` apart."""
    sample = layout.sample_of_token
    mask = sample[:, None] == sample[None, :]
    if window_each_side is not None:
        index = torch.arange(len(sample), device=sample.device)
        mask = mask & ((index[:, None] - index[None, :]).abs() <= window_each_side)
    return mask


def unsupported_reason(request: Request) -> str | None:
    """Runs everywhere."""
    return None
