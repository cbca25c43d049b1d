"""Decoder and cross-entropy over the scored rows, in chunks, so that all K x V logits never exist at once.

The gradients with respect to rows, table and bias are computed in the forward pass, chunk by chunk, while the chunk's
logits are at hand (the idea of Liger-Kernel's fused linear cross-entropy): three matrix products per chunk, none of
them twice. With tensor parallelism each rank holds a slice of the vocabulary; maxima and sums go over the ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

IGNORED = -100
_LOGITS_PER_CHUNK = 2**25  # fp32 elements of one chunk of logits: 128 MiB


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_KD: Tensor, table_VD: Tensor, bias_V: Tensor, label_K: Tensor, group: Any
    ) -> tuple[Tensor, Tensor]:
        needs_grad = any(ctx.needs_input_grad[:3])
        grads = _Gradients(x_KD, table_VD, bias_V) if needs_grad else None
        loss_K = torch.zeros(len(label_K), dtype=torch.float32, device=x_KD.device)
        rows = max(1, _LOGITS_PER_CHUNK // table_VD.shape[0])
        for start in range(0, len(label_K), rows):
            chunk = slice(start, start + rows)
            loss_K[chunk] = _one_chunk(x_KD[chunk], table_VD, bias_V, label_K[chunk], group, grads, chunk)
        if grads is not None:
            ctx.save_for_backward(*grads.reduced(group))
        ctx.mark_non_differentiable(loss_K)
        return loss_K.sum(), loss_K

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        dx_KD, dtable_VD, dbias_V = ctx.saved_tensors
        return dx_KD * grad_sum.to(dx_KD.dtype), dtable_VD * grad_sum, dbias_V * grad_sum, None, None


class _Gradients:
    """Accumulators of the three gradients; table and bias in fp32 whatever the weights' dtype: over a hundred chunks,
    sums in bf16 would lose one to two percent of them."""

    def __init__(self, x_KD: Tensor, table_VD: Tensor, bias_V: Tensor) -> None:
        self.x_KD = torch.zeros_like(x_KD)
        wide = torch.promote_types(table_VD.dtype, torch.float32)
        self.table_VD = torch.zeros_like(table_VD, dtype=wide)
        self.bias_V = torch.zeros_like(bias_V, dtype=wide)

    def add(self, chunk: slice, x_CD: Tensor, table_VD: Tensor, dlogits_CV: Tensor) -> None:
        dlogits = dlogits_CV.to(x_CD.dtype)
        torch.mm(dlogits, table_VD, out=self.x_KD[chunk])
        if self.table_VD.dtype == x_CD.dtype:
            self.table_VD.addmm_(dlogits.t(), x_CD)
        else:
            self.table_VD += dlogits.t() @ x_CD
        self.bias_V += dlogits_CV.sum(0)

    def reduced(self, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Rows' gradients summed over the slices of the vocabulary."""
        if _size(group) > 1:
            dist.all_reduce(self.x_KD, group=group)
        return self.x_KD, self.table_VD, self.bias_V


def _one_chunk(
    x_CD: Tensor, table_VD: Tensor, bias_V: Tensor, label_C: Tensor, group: Any, grads: _Gradients | None, chunk: slice
) -> Tensor:
    logits_CV = torch.addmm(bias_V, x_CD, table_VD.t()).float()
    peak_C = _reduce(logits_CV.amax(1), group, dist.ReduceOp.MAX)
    logits_CV.sub_(peak_C[:, None])
    scored_C = label_C != IGNORED
    local_C = label_C - (dist.get_rank(group) * table_VD.shape[0] if _size(group) > 1 else 0)
    here_C = scored_C & (local_C >= 0) & (local_C < table_VD.shape[0])
    column_C = torch.where(here_C, local_C, 0)
    target_C = _reduce(logits_CV.gather(1, column_C[:, None]).squeeze(1) * here_C, group)
    logits_CV.exp_()
    total_C = _reduce(logits_CV.sum(1), group)
    if grads is not None:
        logits_CV.mul_((scored_C / total_C)[:, None])  # softmax, and 0 in rows that are not scored
        logits_CV.scatter_add_(1, column_C[:, None], -here_C.float()[:, None])
        grads.add(chunk, x_CD, table_VD, logits_CV)
    return (total_C.log() - target_C) * scored_C


def _size(group: Any) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _reduce(values: Tensor, group: Any, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    if _size(group) > 1:
        dist.all_reduce(values, operation, group=group)
    return values


def chunked_cross_entropy(
    x_KD: Tensor, table_VD: Tensor, bias_V: Tensor, label_K: Tensor, group: Any = None
) -> tuple[Tensor, Tensor]:
    """Cross-entropy of ``x @ table.T + bias`` against the labels, in nats.

    Args:
        x_KD: rows to score, the same on every rank of ``group``.
        table_VD, bias_V: this rank's slice of the decoder.
        label_K: int64; :data:`IGNORED` rows count nothing.
        group: the tensor-parallel group, None for one rank.

    Returns:
        (sum, per row): the differentiable sum, fp32; and each row's loss, fp32 [K], for statistics only.
    """
    return _ChunkedCrossEntropy.apply(x_KD, table_VD, bias_V, label_K, group)
