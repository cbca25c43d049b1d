"""The MLM loss: decoder and cross-entropy of the masked positions in chunks, so that K x V logits never exist at once.

The gradients of rows, embedding and bias are computed in the forward pass, chunk by chunk, while the chunk's logits are
at hand (the idea of Liger-Kernel's fused linear cross-entropy): three matrix products a chunk, none of them twice::

    for C of the K rows:  logits_CV = x_CD @ embedding.T      into one buffer that all chunks use
                          loss_C, exponentials                in place of the logits
                          dx_CD, dembedding_VD, dbias_V       from the exponentials

Dividing by the exponentials' sum is left to the products' side of width D, so that the side of width V is passed over
as seldom as can be. With tensor parallelism each rank holds a slice of the vocabulary; maxima and sums go over ranks.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.kernels.compiled import compiled_on_gpu
from megatron_mmbert.kernels.scratch import Slot, recycled, scratch
from megatron_mmbert.model.memory_saving.tied_embedding_grad import TiedEmbeddingGrad

# Of one chunk's logits at most, by kind of device. Each chunk reads the word embedding twice and adds to the whole of
# its gradient, so few chunks are fast.
BYTES_OF_LOGITS = {"cpu": 3 * 2**26, "cuda": 2**31}
# fp32 elements that softmax and the sum of half-precision products work on at a time: a CPU's outer cache holds them,
# and on a busy machine, where threads wait for each other at every operation, operations are still few. A GPU needs
# rows enough for all of its multiprocessors.
SCRATCH_ELEMENTS = {"cpu": 2**22, "cuda": 2**28}
_BIAS_COLUMNS = 8  # one for the bias, and zeros: tensor cores take widths of whole 16 bytes


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_KD: Tensor,
        embedding_VD: Tensor,
        bias_V: Tensor,
        label_K: Tensor,
        group: Any,
        tied_grad: TiedEmbeddingGrad | None,
    ) -> tuple[Tensor, Tensor]:
        needs_grad = any(ctx.needs_input_grad[:3])
        grads = _Gradients(x_KD, embedding_VD, bias_V) if needs_grad else None
        loss_K = torch.zeros(len(label_K), dtype=_accumulation_dtype(x_KD), device=x_KD.device)
        rows = rows_per_chunk(len(label_K), embedding_VD.shape[0] * embedding_VD.itemsize, embedding_VD.device.type)
        buffer_CV = _buffer(x_KD, min(rows, len(label_K)), embedding_VD.shape[0])
        for start in range(0, len(label_K), rows):
            chunk = slice(start, start + rows)
            x_CD = x_KD[chunk]
            logits_CV = torch.mm(x_CD, embedding_VD.t(), out=buffer_CV[: len(x_CD)])
            loss_K[chunk], scale_C = _softmax(logits_CV, bias_V, label_K[chunk], group)
            if grads is not None:
                grads.add(chunk, x_CD, embedding_VD, logits_CV, scale_C)
        if grads is not None:
            ctx.save_for_backward(*grads.reduced(group))
        ctx.tied_grad = tied_grad
        ctx.mark_non_differentiable(loss_K)
        return loss_K.sum(), loss_K

    @staticmethod
    def backward(ctx: Any, grad_sum: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        # In place: a second gradient of the embedding would be the largest tensor here. A second pass is refused.
        dx_KD, dembedding_VD, dbias_V = ctx.saved_tensors
        dx_KD.mul_(grad_sum)
        dbias_V.mul_(grad_sum)
        # 1 in training; to ask a GPU would be to wait for it.
        scale = None if grad_sum.is_cpu and grad_sum == 1 else grad_sum
        if ctx.tied_grad is not None:
            ctx.tied_grad.leave(dembedding_VD, scale)
            return dx_KD, None, dbias_V, None, None, None
        return dx_KD, dembedding_VD if scale is None else dembedding_VD.mul_(scale), dbias_V, None, None, None


def _buffer(like: Tensor, *shape: int) -> Tensor:
    return scratch(Slot.LARGE, shape, like.dtype) if like.is_cpu else like.new_empty(shape)


def _kept(like: Tensor, dtype: torch.dtype) -> Tensor:
    return (
        recycled("word embedding gradient", like.shape, dtype) if like.is_cpu else torch.empty_like(like, dtype=dtype)
    )


class _Gradients:
    """The accumulators of the three gradients.

    Those of embedding and bias are fp32 whatever the weights' dtype: over many chunks, sums in bf16 would lose one to
    two percent of them. In half precision on a GPU the bias' gradient is a column beside the embedding's, of the same
    product: by itself it would read all of the logits once more.
    """

    def __init__(self, x_KD: Tensor, embedding_VD: Tensor, bias_V: Tensor) -> None:
        self.x_KD = torch.empty_like(x_KD)
        self._has_bias_column = _takes_bias_column(embedding_VD)
        dtype, width = _accumulation_dtype(embedding_VD), embedding_VD.shape[1]
        if self._has_bias_column:
            self._sum_VE = embedding_VD.new_empty(len(embedding_VD), width + _BIAS_COLUMNS, dtype=dtype)
            self.embedding_VD, self.bias_V = self._sum_VE[:, :width], self._sum_VE[:, width]
        else:
            self._sum_VE = self.embedding_VD = _kept(embedding_VD, dtype)
            self.bias_V = torch.zeros_like(bias_V, dtype=_accumulation_dtype(bias_V))
        if not len(x_KD):  # else the first chunk overwrites
            self._sum_VE.zero_()

    def add(self, chunk: slice, x_CD: Tensor, embedding_VD: Tensor, dlogits_CV: Tensor, scale_C: Tensor) -> None:
        """Add a chunk's part; the gradient of its logits is ``scale_C[:, None] * dlogits_CV``."""
        dx_CD = torch.mm(dlogits_CV, embedding_VD, out=self.x_KD[chunk])
        dx_CD.mul_(scale_C[:, None])
        if self._has_bias_column:
            scaled_CE = _scaled_with_bias_column(x_CD, scale_C)
        else:
            scaled_CE = (scale_C[:, None] * x_CD).to(x_CD.dtype)
            self.bias_V += torch.mv(dlogits_CV.t(), scale_C.to(dlogits_CV.dtype))
        self._add_to_embedding(dlogits_CV, scaled_CE, first=chunk.start == 0)

    def _add_to_embedding(self, dlogits_CV: Tensor, scaled_CE: Tensor, first: bool) -> None:
        """Sum half-precision products up in fp32 part by part, on a CPU while a cache holds them."""
        if not _is_half(scaled_CE):
            self._sum_VE.addmm_(dlogits_CV.t(), scaled_CE, beta=0 if first else 1)
            return
        rows = _rows_at_a_time(self._sum_VE)
        for sum_RE, dlogits_CR in zip(self._sum_VE.split(rows), dlogits_CV.split(rows, dim=1), strict=True):
            product_RE = torch.mm(dlogits_CR.t(), scaled_CE)
            sum_RE.copy_(product_RE) if first else sum_RE.add_(product_RE)

    def reduced(self, group: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three gradients, the rows' summed over the slices of the vocabulary."""
        if _size(group) > 1:
            dist.all_reduce(self.x_KD, group=group)
        return self.x_KD, self.embedding_VD, self.bias_V


def _takes_bias_column(embedding_VD: Tensor) -> bool:
    return _is_half(embedding_VD) and not embedding_VD.is_cpu


@compiled_on_gpu
def _scaled_with_bias_column(x_CD: Tensor, scale_C: Tensor) -> Tensor:
    """Return ``scale * x``, then a column of ``scale`` itself, then zeros: [C, D + 8] in x's dtype."""
    rest = scale_C.new_zeros(len(scale_C), _BIAS_COLUMNS - 1)
    return torch.cat((scale_C[:, None] * x_CD, scale_C[:, None], rest), dim=1).to(x_CD.dtype)


def rows_per_chunk(rows: int, bytes_per_row: int, device: str) -> int:
    """Return the rows of equal chunks of at most :data:`BYTES_OF_LOGITS`; a small last one costs as much as all."""
    limit = max(1, BYTES_OF_LOGITS[device] // bytes_per_row)
    return math.ceil(rows / math.ceil(rows / limit)) if rows else 1


def _softmax(logits_CV: Tensor, bias_V: Tensor, label_C: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    """Return each row's loss, and the scale that makes ``logits_CV`` the loss' gradient by the logits with bias.

    In place, logits without bias become exponentials, and at the label their difference from the sum.
    """
    if _size(group) > 1:  # ranks exchange each maximum and each sum once
        return _softmax_of_rows(logits_CV, bias_V, label_C, group)
    rows = _rows_at_a_time(logits_CV)
    parts = [
        _softmax_of_rows(logits_CV[start : start + rows], bias_V, label_C[start : start + rows], group)
        for start in range(0, len(logits_CV), rows)
    ]
    loss_C, scale_C = (torch.cat(each) for each in zip(*parts, strict=True))
    return loss_C, scale_C


def _softmax_of_rows(logits_CV: Tensor, bias_V: Tensor, label_C: Tensor, group: Any) -> tuple[Tensor, Tensor]:
    peak_C = _reduce(_peaks(logits_CV, bias_V), group, dist.ReduceOp.MAX)
    is_scored_C = label_C != IGNORED_LABEL
    local_C = label_C - (dist.get_rank(group) * logits_CV.shape[1] if _size(group) > 1 else 0)
    is_local_C = is_scored_C & (local_C >= 0) & (local_C < logits_CV.shape[1])
    column_C = torch.where(is_local_C, local_C, 0)
    own_C = logits_CV.gather(1, column_C[:, None]).squeeze(1) - peak_C  # of the label, where this rank holds it
    if _is_half(logits_CV):
        own_C += bias_V[column_C]
    target_C = _reduce(own_C * is_local_C, group)
    total_C = _reduce(_exponentiate(logits_CV, bias_V, peak_C), group)
    # softmax - 1 at the label, times the sum that the scale divides by; from fp32, as near 1 the difference cancels.
    at_label_C = own_C.exp() - torch.where(is_local_C, total_C, 0)
    logits_CV.scatter_(1, column_C[:, None], at_label_C[:, None].to(logits_CV.dtype))
    return (total_C.log() - target_C) * is_scored_C, is_scored_C / total_C


def _peaks(logits_CV: Tensor, bias_V: Tensor) -> Tensor:
    """Return the rows' maxima with bias, in fp32."""
    return torch.cat([_peaks_of_block(block, bias_V) for block in logits_CV.split(_rows_at_a_time(logits_CV))])


@compiled_on_gpu
def _peaks_of_block(logits_CV: Tensor, bias_V: Tensor) -> Tensor:
    """Return the block's maxima, [rows].

    fp32 logits get their bias here, in place; those of half precision only when they become exponentials, so that their
    sum with it is not rounded.
    """
    return logits_CV.to(_accumulation_dtype(logits_CV)).add_(bias_V).amax(1)


def _exponentiate(logits_CV: Tensor, bias_V: Tensor, peak_C: Tensor) -> Tensor:
    """Turn logits into exp(logits - peak) in place; return the rows' sums, added up before any rounding to bf16."""
    rows = _rows_at_a_time(logits_CV)
    blocks = zip(logits_CV.split(rows), peak_C.split(rows), strict=True)
    return torch.cat([_exponentiate_block(block, bias_V, peak) for block, peak in blocks])


@compiled_on_gpu
def _exponentiate_block(logits_CV: Tensor, bias_V: Tensor, peak_C: Tensor) -> Tensor:
    """Return the sums of a block's rows; compiled, the fp32 copy is in registers alone."""
    fp32_CV = logits_CV.to(peak_C.dtype)
    if _is_half(logits_CV):
        fp32_CV.add_(bias_V)
    fp32_CV.sub_(peak_C[:, None]).exp_()
    if _is_half(logits_CV):
        logits_CV.copy_(fp32_CV)
    return fp32_CV.sum(1)


def _is_half(values: Tensor) -> bool:
    return values.dtype != _accumulation_dtype(values)


def _rows_at_a_time(rows: Tensor) -> int:
    return max(1, SCRATCH_ELEMENTS[rows.device.type] // rows.shape[1])


def _accumulation_dtype(values: Tensor) -> torch.dtype:
    return torch.promote_types(values.dtype, torch.float32)


def _size(group: Any) -> int:
    return 1 if group is None else dist.get_world_size(group)


def _reduce(values: Tensor, group: Any, operation: Any = dist.ReduceOp.SUM) -> Tensor:
    if _size(group) > 1:
        dist.all_reduce(values, operation, group=group)
    return values


def chunked_cross_entropy(
    x_KD: Tensor,
    embedding_VD: Tensor,
    bias_V: Tensor,
    label_K: Tensor,
    group: Any = None,
    tied_grad: TiedEmbeddingGrad | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the cross-entropy of ``x @ embedding.T + bias`` against the labels, in nats.

    Args:
        x_KD: rows to score, the same on every rank of ``group``.
        table_VD, bias_V: this rank's slice of the decoder.
        label_K: int64; :data:`IGNORED_LABEL` rows count nothing.
        group: the tensor-parallel group, None for one rank.
        tied_grad: takes the embedding's gradient to the lookup of the rows; None leaves it to autograd.

    Returns:
        (sum, per row): the differentiable sum, fp32; and each row's loss, fp32 [K], for statistics only. In fp64 where
        the inputs are. Only one backward pass is possible, as it works in place.
    """
    return _ChunkedCrossEntropy.apply(x_KD, embedding_VD, bias_V, label_K, group, tied_grad)
