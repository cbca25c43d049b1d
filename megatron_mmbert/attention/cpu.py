"""The CPU engine: rotation, attention and their gradients in one autograd function over the fused QKV.

One function, because on a CPU the passes over memory between the matrix products cost as much as the attention itself:
queries and keys are rotated while they are written into the layout that the products want, and gradients are rotated
back straight into the gradient of the fused projection. Nothing is split, concatenated or zero-filled on the way.

Global layers run PyTorch's flash kernel sample by sample. Local layers cut the pack into blocks that see themselves
and a margin on either side; each head is a strip of blocks, so that the keys of a block are a view, never a copy, and
all products are batched matrix products. Time is O(T * window) whatever the samples' lengths, and what is kept for the
backward pass O(T): the weights, three blocks wide, are computed again.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from megatron_mmbert.attention.plan import Layout, Request
from megatron_mmbert.attention.strips import Strips, band_mask

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def attend(q_THD: Tensor, k_THD: Tensor, v_THD: Tensor, layout: Layout, window_each_side: int | None) -> Tensor:
    """See :mod:`megatron_mmbert.attention.plan` for the contract."""
    return attend_fused(torch.stack((q_THD, k_THD, v_THD), dim=2), None, layout, window_each_side)


def attend_fused(
    qkv_TH3D: Tensor, cos_sin: tuple[Tensor, Tensor] | None, layout: Layout, window_each_side: int | None
) -> Tensor:
    """Attention of the fused projection's output, queries and keys rotated first.

    Args:
        qkv_TH3D: [T, H, 3, D], contiguous; Megatron-Core's order of rows.
        cos_sin: fp32 [T, 1, D] each; None for no rotation.

    Returns:
        out_THD, contiguous, in the dtype of ``qkv_TH3D``.
    """
    if window_each_side is not None and window_each_side >= layout.max_seqlen - 1:
        window_each_side = None
    return _Attention.apply(qkv_TH3D, *(cos_sin or (None, None)), layout, window_each_side)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, qkv_TH3D: Tensor, cos: Tensor | None, sin: Tensor | None, layout: Layout, window: int | None
    ) -> Tensor:
        qkv_3HTD = qkv_TH3D.permute(2, 1, 0, 3)
        rotation = None if cos is None or sin is None else (cos.transpose(0, 1), sin.transpose(0, 1))
        ctx.layout, ctx.window, ctx.rotation, ctx.shape = layout, window, rotation, qkv_TH3D.shape
        ctx.dtype = qkv_TH3D.dtype
        if window is None:
            out, saved = _global_forward(qkv_3HTD, rotation, layout)
        else:
            out, saved = _local_forward(qkv_3HTD, rotation, layout, window)
        if qkv_TH3D.requires_grad:
            ctx.save_for_backward(*saved)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_THD: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        dqkv_TH3D = torch.empty(ctx.shape, dtype=ctx.dtype)
        dqkv_3HTD = dqkv_TH3D.permute(2, 1, 0, 3)
        if ctx.window is None:
            _global_backward(grad_THD, ctx.saved_tensors, ctx.rotation, ctx.layout, dqkv_3HTD)
        else:
            _local_backward(grad_THD, ctx.saved_tensors, ctx.rotation, ctx.layout, ctx.window, dqkv_3HTD)
        return dqkv_TH3D, None, None, None, None


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


def _global_forward(qkv_3HTD: Tensor, rotation: Any, layout: Layout) -> tuple[Tensor, list[Tensor]]:
    _, heads, tokens, width = qkv_3HTD.shape
    kept_3HTD = torch.empty((3, heads, tokens, width), dtype=qkv_3HTD.dtype)
    rotate_into(kept_3HTD[:2], qkv_3HTD[:2], rotation)
    kept_3HTD[2].copy_(qkv_3HTD[2])  # a view would keep the whole projection alive until the backward pass
    out_THD = torch.empty((tokens, heads, width), dtype=qkv_3HTD.dtype)
    sums = []
    for start, stop in layout.bounds:
        q, k, v = (x[None, :, start:stop] for x in kept_3HTD)
        out, log_sum = _flash(q, k, v)
        out_THD[start:stop] = out[0].transpose(0, 1)
        sums.append(log_sum)
    return out_THD, [kept_3HTD, out_THD, *sums]


def _global_backward(
    grad_THD: Tensor, saved: tuple[Tensor, ...], rotation: Any, layout: Layout, dqkv_3HTD: Tensor
) -> None:
    kept_3HTD, out_THD, *sums = saved
    for (start, stop), log_sum in zip(layout.bounds, sums, strict=True):
        q, k, v = (x[None, :, start:stop] for x in kept_3HTD)
        grad, out = (x[None, start:stop].transpose(1, 2) for x in (grad_THD, out_THD))
        dq, dk, dv = _flash_backward(grad, q, k, v, out, log_sum, 0.0, False)
        own = None if rotation is None else (rotation[0][:, start:stop], rotation[1][:, start:stop])
        rotate_into(dqkv_3HTD[0, :, start:stop], dq[0], own, back=True)
        rotate_into(dqkv_3HTD[1, :, start:stop], dk[0], own, back=True)
        dqkv_3HTD[2, :, start:stop] = dv[0]


def _local_forward(qkv_3HTD: Tensor, rotation: Any, layout: Layout, window: int) -> tuple[Tensor, list[Tensor]]:
    _, heads, tokens, width = qkv_3HTD.shape
    wide = torch.promote_types(qkv_3HTD.dtype, torch.float32)  # scores and sums of bf16 are kept in fp32
    strips = Strips(heads, tokens, width, window, wide)
    q, k, v = (strips.empty() for _ in range(3))
    rotate_into(strips.tokens_of(q), qkv_3HTD[0], rotation)
    rotate_into(strips.tokens_of(k), qkv_3HTD[1], rotation)
    strips.tokens_of(v).copy_(qkv_3HTD[2])
    out = torch.bmm(_local_weights(q, k, layout, strips), strips.neighbourhoods(v))
    out_THD = torch.empty((tokens, heads, width), dtype=qkv_3HTD.dtype)
    out_THD.copy_(strips.tokens_of_blocks(out).transpose(0, 1))
    return out_THD, [q, k, v]


def _local_weights(q: Tensor, k: Tensor, layout: Layout, strips: Strips) -> Tensor:
    """[batch, B, 3 B]: what each query gives to the keys of its neighbourhood."""
    mask = layout.derive(("strip", strips.window, strips.dtype), lambda: band_mask(layout, strips))
    scores = _scaled_bmm(strips.blocks(q), strips.neighbourhoods(k).transpose(1, 2))
    strips.by_head(scores).add_(mask)
    return torch.softmax(scores, -1, out=scores)


def _local_backward(
    grad_THD: Tensor, saved: tuple[Tensor, ...], rotation: Any, layout: Layout, window: int, dqkv_3HTD: Tensor
) -> None:
    q, k, v = saved
    _, heads, tokens, width = dqkv_3HTD.shape
    strips = Strips(heads, tokens, width, window, q.dtype)
    weights = _local_weights(q, k, layout, strips)
    grad = strips.empty()
    strips.tokens_of(grad).copy_(grad_THD.transpose(0, 1))
    grad = strips.blocks(grad)
    dv = strips.scatter(weights, grad)
    dweights = torch.bmm(grad, strips.neighbourhoods(v).transpose(1, 2))
    dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
    dq = _scaled_bmm(dscores, strips.neighbourhoods(k), width)
    dk = strips.scatter(dscores, strips.blocks(q), 1 / math.sqrt(width))
    rotate_into(dqkv_3HTD[0], strips.tokens_of_blocks(dq), rotation, back=True)
    rotate_into(dqkv_3HTD[1], strips.tokens_of(dk), rotation, back=True)
    dqkv_3HTD[2].copy_(strips.tokens_of(dv))


def _scaled_bmm(left: Tensor, right: Tensor, width: int | None = None) -> Tensor:
    """left @ right / sqrt(width); by default the width that is summed over. The scale costs no pass of its own."""
    out = torch.empty((len(left), left.shape[1], right.shape[2]), dtype=left.dtype)
    return torch.baddbmm(out, left, right, beta=0, alpha=1 / math.sqrt(width or left.shape[2]), out=out)


def refusal(request: Request) -> str | None:
    if request.device != "cpu":
        return "runs on CPUs only"
    if request.dtype not in (torch.float32, torch.float64, torch.bfloat16):
        return f"takes fp32, fp64 or bf16, not {str(request.dtype).removeprefix('torch.')}"
    return None
