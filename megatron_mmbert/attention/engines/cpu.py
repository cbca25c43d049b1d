"""The CPU engine: rotation, attention and their gradients in one autograd function over the fused QKV.

One function, because on a CPU the passes over memory between the matrix products cost as much as the attention itself:
queries and keys are rotated while they are written into the layout that the products want, and gradients are rotated
back straight into the gradient of the fused projection. Nothing is split, concatenated or zero-filled on the way.

Global layers run PyTorch's flash kernel sequence by sequence. Local layers cut the pack into blocks laid out so that
the three key blocks of a block are a view, never a copy (:mod:`megatron_mmbert.attention.local_blocks`), and all
products are batched matrix products. Time is O(T * window) whatever the sequences' lengths, and what is kept for the
backward pass O(T): the weights, three blocks wide, are computed again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_mmbert import compat
from megatron_mmbert.attention.interface import Request, SequenceLayout
from megatron_mmbert.attention.local_blocks import LocalBlocks
from megatron_mmbert.kernels.scratch import Slot, scratch

_flash = compat.FLASH_CPU.get()
_flash_backward = compat.FLASH_CPU_BACKWARD.get()
_softmax_backward = compat.SOFTMAX_BACKWARD.get()


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: SequenceLayout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.interface` for the contract."""
    return attend_fused(torch.stack((q_THD, k_THD, v_THD), dim=2), None, layout, window_each_side)


def attend_fused(
    qkv_TH3D: Tensor,
    cos_sin: tuple[Tensor, Tensor] | None,
    layout: SequenceLayout,
    window_each_side: int | None,
    rows_K: Tensor | None = None,
) -> Tensor:
    """Return the attention of the fused projection's output, queries and keys rotated first.

    Args:
        qkv_TH3D: [T, H, 3, D], contiguous; Megatron-Core's order of rows.
        cos_sin: fp32 [T, 1, D] each; None for no rotation.
        rows_K: int64, the tokens whose queries attend, in any order, also repeated; None for all.

    Returns:
        out_THD, or out_KHD, contiguous, in the dtype of ``qkv_TH3D``.
    """
    if window_each_side is not None and window_each_side >= layout.max_seqlen - 1:
        window_each_side = None
    own_rows_K = (
        rows_K if window_each_side is None else None
    )  # a local layer's blocks hold all queries; they cost little
    out = _Attention.apply(qkv_TH3D, *(cos_sin or (None, None)), layout, window_each_side, own_rows_K)
    return out if own_rows_K is rows_K else out[rows_K]


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv_TH3D: Tensor,
        cos: Tensor | None,
        sin: Tensor | None,
        layout: SequenceLayout,
        window: int | None,
        rows_K: Tensor | None,
    ) -> Tensor:
        rotation = None if cos is None or sin is None else (cos.transpose(0, 1), sin.transpose(0, 1))
        ctx.layout, ctx.window, ctx.rotation, ctx.rows_K = layout, window, rotation, rows_K
        tokens, heads, _, width = qkv_TH3D.shape
        out_THD = qkv_TH3D.new_empty(tokens if rows_K is None else len(rows_K), heads, width)
        qkv_3HTD = qkv_TH3D.permute(2, 1, 0, 3)
        if window is None:
            sums = _global_forward(qkv_3HTD, rotation, layout, rows_K, out_THD)
            ctx.save_for_backward(qkv_TH3D, out_THD, *sums)
        else:
            _local_forward(qkv_3HTD, rotation, layout, window, out_THD)
            ctx.save_for_backward(qkv_TH3D)
        return out_THD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        qkv_TH3D, *results = ctx.saved_tensors
        dqkv_TH3D = torch.empty_like(qkv_TH3D)
        qkv_3HTD, dqkv_3HTD = (x.permute(2, 1, 0, 3) for x in (qkv_TH3D, dqkv_TH3D))
        if ctx.window is None:
            _global_backward(grad_THD, qkv_3HTD, results, ctx.rotation, ctx.layout, ctx.rows_K, dqkv_3HTD)
        else:
            _local_backward(grad_THD, qkv_3HTD, ctx.rotation, ctx.layout, ctx.window, dqkv_3HTD)
        return dqkv_TH3D, None, None, None, None, None


def rotate_into(out: Tensor, x: Tensor, rotation: tuple[Tensor, Tensor] | None, back: bool = False) -> None:
    """Write ``x`` [..., T, D] turned by the tables [1, T, D] (``back``: by the opposite angles) into ``out``."""
    if rotation is None:
        out.copy_(x)
        return
    cos, sin = rotation
    half = x.shape[-1] // 2
    if x.dtype != cos.dtype:
        cos, sin = (cos.double(), sin.double()) if x.dtype == torch.float64 else (cos, sin)
        x = x.to(cos.dtype)
    target = out if out.dtype == cos.dtype else torch.empty(x.shape, dtype=cos.dtype)
    sign = -1.0 if back else 1.0
    torch.mul(x, cos, out=target)
    target[..., :half].addcmul_(x[..., half:], sin[..., :half], value=-sign)
    target[..., half:].addcmul_(x[..., :half], sin[..., half:], value=sign)
    if target is not out:
        out.copy_(target)


def _global_forward(
    qkv_3HTD: Tensor, rotation: Any, layout: SequenceLayout, rows_K: Tensor | None, out_THD: Tensor
) -> list[Tensor]:
    """Write ``out_THD``; return the logarithms of its rows' sums, sequence by sequence."""
    rotated_3HTD = _rotated(qkv_3HTD, rotation)
    sums = []
    for start, stop, tokens, places in _queries(layout, rows_K):
        k, v = rotated_3HTD[1:, None, :, start:stop]
        out, log_sum = _flash(rotated_3HTD[0, None, :, tokens], k, v)
        out_THD[places] = out[0].transpose(0, 1)
        sums.append(log_sum)
    return sums


def _global_backward(
    grad_THD: Tensor,
    qkv_3HTD: Tensor,
    results: list[Tensor],
    rotation: Any,
    layout: SequenceLayout,
    rows_K: Tensor | None,
    dqkv_3HTD: Tensor,
) -> None:
    rotated_3HTD = _rotated(qkv_3HTD, rotation)
    out_THD, *sums = results
    if rows_K is not None:
        dqkv_3HTD.zero_()
    for (start, stop, tokens, places), log_sum in zip(_queries(layout, rows_K), sums, strict=True):
        k, v = rotated_3HTD[1:, None, :, start:stop]
        grad, out = (x[None, places].transpose(1, 2) for x in (grad_THD, out_THD))
        dq, dk, dv = _flash_backward(grad, rotated_3HTD[0, None, :, tokens], k, v, out, log_sum, 0.0, False)
        if isinstance(tokens, slice):
            rotate_into(dqkv_3HTD[0, :, tokens], dq[0], _of(rotation, tokens), back=True)
        else:
            dq_HKD = torch.empty_like(dq[0])
            rotate_into(dq_HKD, dq[0], _of(rotation, tokens), back=True)
            dqkv_3HTD[0].index_add_(1, tokens, dq_HKD)
        rotate_into(dqkv_3HTD[1, :, start:stop], dk[0], _of(rotation, slice(start, stop)), back=True)
        dqkv_3HTD[2, :, start:stop] = dv[0]


def _queries(
    layout: SequenceLayout, rows_K: Tensor | None
) -> Iterator[tuple[int, int, Tensor | slice, Tensor | slice]]:
    """Yield the bounds of each sequence with queries, the tokens whose queries attend, and their rows of the output."""
    for start, stop in layout.bounds:
        if rows_K is None:
            yield start, stop, slice(start, stop), slice(start, stop)
            continue
        places = ((rows_K >= start) & (rows_K < stop)).nonzero()[:, 0]
        if len(places):
            yield start, stop, rows_K[places], places


def _of(rotation: Any, tokens: Tensor | slice) -> Any:
    return None if rotation is None else tuple(table[:, tokens] for table in rotation)


def _rotated(qkv_3HTD: Tensor, rotation: Any) -> Tensor:
    """Return queries and keys rotated, values as they are, heads before tokens."""
    rotated_3HTD = scratch(Slot.ROTATED, qkv_3HTD.shape, qkv_3HTD.dtype)
    _rotate_qk_into(rotated_3HTD, qkv_3HTD, rotation)
    return rotated_3HTD


def _rotate_qk_into(targets: Iterable[Tensor], qkv_3HTD: Tensor, rotation: Any) -> None:
    for target, x, tables in zip(targets, qkv_3HTD, (rotation, rotation, None), strict=True):
        rotate_into(target, x, tables)


def _local_forward(qkv_3HTD: Tensor, rotation: Any, layout: SequenceLayout, window: int, out_THD: Tensor) -> None:
    blocks = _local_blocks(qkv_3HTD, window)
    q, k, v = _rotated_blocks(qkv_3HTD, rotation, blocks)
    out = scratch(Slot.ATTENDED, q[1:-1].shape, q.dtype)
    torch.bmm(_local_weights(q, k, layout, blocks), blocks.key_blocks(v), out=out)
    out_THD.copy_(blocks.tokens_of_blocks(out).transpose(0, 1))


def _local_blocks(qkv_3HTD: Tensor, window: int) -> LocalBlocks:
    _, heads, tokens, width = qkv_3HTD.shape
    score_dtype = torch.promote_types(qkv_3HTD.dtype, torch.float32)  # scores and sums of bf16 are kept in fp32
    return LocalBlocks(heads, tokens, width, window, score_dtype)


def _rotated_blocks(qkv_3HTD: Tensor, rotation: Any, blocks: LocalBlocks) -> Tensor:
    """Return [3, batch + 2, B, D] of queries and keys, rotated, and of values, in blocks."""
    rotated = scratch(Slot.ROTATED, (3, *blocks.shape), blocks.dtype)
    _rotate_qk_into((blocks.tokens_of(blocks.cleared(padded)) for padded in rotated), qkv_3HTD, rotation)
    return rotated


def _local_weights(q: Tensor, k: Tensor, layout: SequenceLayout, blocks: LocalBlocks) -> Tensor:
    """Return [batch, B, 3 B]: what each query gives to the keys of its three blocks."""
    scores = _scaled_bmm(Slot.LARGE, blocks.own_blocks(q), blocks.key_blocks(k).transpose(1, 2))
    blocks.by_head(scores).add_(blocks.mask(layout))
    return torch.softmax(scores, -1, out=scores)


def _local_backward(
    grad_THD: Tensor, qkv_3HTD: Tensor, rotation: Any, layout: SequenceLayout, window: int, dqkv_3HTD: Tensor
) -> None:
    width = qkv_3HTD.shape[-1]
    blocks = _local_blocks(qkv_3HTD, window)
    q, k, v = _rotated_blocks(qkv_3HTD, rotation, blocks)
    weights = _local_weights(q, k, layout, blocks)
    grad = blocks.cleared(scratch(Slot.GRADIENT, q.shape, q.dtype))
    blocks.tokens_of(grad).copy_(grad_THD.transpose(0, 1))
    grad = blocks.own_blocks(grad)
    dv = blocks.scatter(weights, grad, scratch(Slot.VALUES_GRADIENT, q.shape, q.dtype))
    dweights = scratch(Slot.SECOND_LARGE, weights.shape, q.dtype)
    torch.bmm(grad, blocks.key_blocks(v).transpose(1, 2), out=dweights)
    dscores = _softmax_backward(dweights, weights, -1, weights.dtype, grad_input=dweights)
    dq = _scaled_bmm(Slot.ATTENDED, dscores, blocks.key_blocks(k), width)
    dk = blocks.scatter(
        dscores, blocks.own_blocks(q), scratch(Slot.KEYS_GRADIENT, q.shape, q.dtype), 1 / math.sqrt(width)
    )
    rotate_into(dqkv_3HTD[0], blocks.tokens_of_blocks(dq), rotation, back=True)
    rotate_into(dqkv_3HTD[1], blocks.tokens_of(dk), rotation, back=True)
    dqkv_3HTD[2].copy_(blocks.tokens_of(dv))


def _scaled_bmm(slot: Slot, left: Tensor, right: Tensor, width: int | None = None) -> Tensor:
    """Return left @ right / sqrt(width) in that slot; the scale costs no pass of its own.

    Args:
        width: by default the width that is summed over.
    """
    out = scratch(slot, (len(left), left.shape[1], right.shape[2]), left.dtype)
    return torch.baddbmm(out, left, right, beta=0, alpha=1 / math.sqrt(width or left.shape[2]), out=out)


def unsupported_reason(request: Request) -> str | None:
    if request.device != "cpu":
        return "runs on CPUs only"
    if request.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"takes fp32, fp64 or bf16, not {str(request.dtype).removeprefix('torch.')}"
    return None
