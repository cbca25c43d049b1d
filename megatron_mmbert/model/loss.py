"""Decoder and cross-entropy over the scored rows, in chunks, so that all K x V logits never exist at once.

The gradients with respect to rows, table and bias are computed in the forward pass, chunk by chunk, while the chunk's
logits are at hand (the idea of Liger-Kernel's fused linear cross-entropy): three matrix products per chunk, none of
them twice. All chunks use one buffer, in which logits become exponentials in place; dividing by their sum is left to
the narrow side of the products, so that the wide side is passed over as seldom as can be. With tensor parallelism each
rank holds a slice of the vocabulary; maxima and sums go over the ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_mmbert.kernels.compiled import compiled_on_gpu

IGNORED = -100
# Logits of one chunk. Each chunk reads the table twice and adds to the whole of its gradient, so few chunks are fast.
LOGITS_PER_CHUNK = 2**27  # fp32: 512 MiB, 524 rows of 256,000
GPU_LOGITS_PER_CHUNK = 2**30  # bf16: 2 GiB, 4,194 rows of 256,000
# fp32 elements the softmax works on at a time: a CPU's outer cache holds them, and on a busy machine, where threads
# wait for each other at every operation, operations are still few.
_CPU_SCRATCH_ELEMENTS = 2**22
_GPU_SCRATCH_ELEMENTS = 2**28


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x_KD: Tensor, table_VD: Tensor, bias_V: Tensor, label_K: Tensor, group: Any
    ) -> tuple[Tensor, Tensor]:
        needs_grad = any(ctx.needs_input_grad[:3])
        grads = _Gradients(x_KD, table_VD, bias_V) if needs_grad else None
        loss_K = torch.zeros(len(label_K), dtype=_wide(x_KD), device=x_KD.device)
        rows = max(1, (GPU_LOGITS_PER_CHUNK if x_KD.is_cuda else LOGITS_PER_CHUNK) // table_VD.shape[0])
        buffer_CV = x_KD.new_empty(min(rows, len(label_K)), table_VD.shape[0])
        for start in range(0, len(label_K), rows):
            chunk = slice(start, start + rows)
            x_CD = x_KD[chunk]
            logits_CV = torch.addmm(bias_V, x_CD, table_VD.t(), out=buffer_CV[: len(x_CD)])
            loss_K[chunk] = _one_chunk(x_CD, logits_CV, table_VD, label_K[chunk], group, grads, chunk)
        if grads is not None:
            ctx.save_for_backward(*grads.reduced(group))
        ctx.mark_non_differentiable(loss_K)
        return loss_K.sum(), loss_K

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # In place: a second table of gradients would be the largest tensor here. A second backward pass is refused.
        return *(grad.mul_(grad_sum) for grad in ctx.saved_tensors), None, None


class _Gradients:
    """Accumulators of the three gradients; table and bias in fp32 whatever the weights' dtype: over many chunks,
    sums in bf16 would lose one to two percent of them."""

    def __init__(self, x_KD: Tensor, table_VD: Tensor, bias_V: Tensor) -> None:
        self.x_KD = torch.empty_like(x_KD)
        make = torch.empty_like if len(x_KD) else torch.zeros_like  # the first chunk overwrites
        self.table_VD = make(table_VD, dtype=_wide(table_VD))
        self.bias_V = torch.zeros_like(bias_V, dtype=_wide(bias_V))
        self._product_VD = None if self.table_VD.dtype == x_KD.dtype else torch.empty_like(table_VD)

    def add(self, chunk: slice, x_CD: Tensor, table_VD: Tensor, dlogits_CV: Tensor, scale_C: Tensor) -> None:
        """Add a chunk's part; the gradient of its logits is ``scale_C[:, None] * dlogits_CV``."""
        dx_CD = torch.mm(dlogits_CV, table_VD, out=self.x_KD[chunk])
        dx_CD.mul_(scale_C[:, None])
        scaled_CD = (scale_C[:, None] * x_CD).to(x_CD.dtype)
        first = chunk.start == 0
        if self._product_VD is None:
            self.table_VD.addmm_(dlogits_CV.t(), scaled_CD, beta=0 if first else 1)
        else:
            torch.mm(dlogits_CV.t(), scaled_CD, out=self._product_VD)
            self.table_VD.copy_(self._product_VD) if first else self.table_VD.add_(self._product_VD)
        self.bias_V += torch.mv(dlogits_CV.t(), scale_C.to(dlogits_CV.dtype))

    def reduced(self, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Rows' gradients summed over the slices of the vocabulary."""
        if _size(group) > 1:
            dist.all_reduce(self.x_KD, group=group)
        return self.x_KD, self.table_VD, self.bias_V


def _one_chunk(
    x_CD: Tensor,
    logits_CV: Tensor,
    table_VD: Tensor,
    label_C: Tensor,
    group: Any,
    grads: _Gradients | None,
    chunk: slice,
) -> Tensor:
    """Each row's loss; ``logits_CV`` is overwritten."""
    peak_C = _reduce(logits_CV.amax(1).to(_wide(logits_CV)), group, dist.ReduceOp.MAX)
    scored_C = label_C != IGNORED
    local_C = label_C - (dist.get_rank(group) * table_VD.shape[0] if _size(group) > 1 else 0)
    here_C = scored_C & (local_C >= 0) & (local_C < table_VD.shape[0])
    column_C1 = torch.where(here_C, local_C, 0)[:, None]
    mine_C = logits_CV.gather(1, column_C1).squeeze(1) - peak_C  # of the row's label, where this rank holds it
    target_C = _reduce(mine_C * here_C, group)
    total_C = _reduce(_exponentiate(logits_CV, peak_C), group)
    if grads is not None:
        # softmax - 1 at the label, times the sum that `scale` divides by; from fp32, as near 1 the difference cancels.
        there_C = mine_C.exp() - torch.where(here_C, total_C, 0)
        logits_CV.scatter_(1, column_C1, there_C[:, None].to(logits_CV.dtype))
        grads.add(chunk, x_CD, table_VD, logits_CV, scored_C / total_C)
    return (total_C.log() - target_C) * scored_C


def _exponentiate(logits_CV: Tensor, peak_C: Tensor) -> Tensor:
    """Turn logits into exp(logits - peak) in place; returns the rows' sums, added up before any rounding to bf16."""
    scratch = _CPU_SCRATCH_ELEMENTS if logits_CV.is_cpu else _GPU_SCRATCH_ELEMENTS
    rows = max(1, scratch // logits_CV.shape[1])
    total_C = torch.empty_like(peak_C)
    for start in range(0, len(logits_CV), rows):
        block = slice(start, start + rows)
        if logits_CV.is_cuda:
            total_C[block] = _one_kernel(logits_CV[block], peak_C[block])
            continue
        wide = logits_CV[block].to(peak_C.dtype)
        torch.sum(wide.sub_(peak_C[block, None]).exp_(), 1, out=total_C[block])
        if wide.dtype != logits_CV.dtype:
            logits_CV[block] = wide
    return total_C


@compiled_on_gpu
def _one_kernel(logits_CV: Tensor, peak_C: Tensor) -> Tensor:
    """The same of a block; compiled, the wide copy is in registers alone."""
    wide_CV = (logits_CV.to(peak_C.dtype) - peak_C[:, None]).exp()
    logits_CV.copy_(wide_CV)
    return wide_CV.sum(1)


def _wide(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


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
        (sum, per row): the differentiable sum, fp32; and each row's loss, fp32 [K], for statistics only. In fp64 where
        the inputs are. Only one backward pass is possible, as it works in place.
    """
    return _ChunkedCrossEntropy.apply(x_KD, table_VD, bias_V, label_K, group)
