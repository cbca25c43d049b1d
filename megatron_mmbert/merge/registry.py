"""One door to the methods, for one tensor of all models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from megatron_mmbert.merge.ema import ema
from megatron_mmbert.merge.linear import linear
from megatron_mmbert.merge.options import MergeOptions, Method
from megatron_mmbert.merge.slerp import slerp
from megatron_mmbert.merge.task_arithmetic import task_arithmetic
from megatron_mmbert.merge.ties import ties


class Merged(NamedTuple):
    """A merged tensor, float32, and TIES's share of sign conflicts (None for the other methods)."""

    tensor: Tensor
    sign_conflict_share: float | None


def merge_with_share(method: Method, base: Tensor | None, models: Sequence[Tensor], options: MergeOptions) -> Merged:
    """Merge one tensor; see :func:`merge_tensors`."""
    weights = options.weights_for(len(models))
    if method == "linear":
        return Merged(linear(models, weights), None)
    if method == "slerp":
        first, second = models
        return Merged(slerp(first, second, options.t), None)
    if method == "ema":
        return Merged(ema(models, options.ema_decay), None)
    if base is None:
        raise ValueError(f"method={method!r} needs a base tensor")
    if method == "task_arithmetic":
        return Merged(task_arithmetic(base, models, weights, options.scale), None)
    return Merged(*ties(base, models, options))


def merge_tensors(method: Method, base: Tensor | None, models: Sequence[Tensor], options: MergeOptions) -> Tensor:
    """Merge one tensor of all models, in float32 whatever the inputs' precision.

    Args:
        base: the tensor all models started from; read by ``ties`` and ``task_arithmetic`` only.
        models: the same tensor of each model, equal shapes; oldest first for ``ema``.
        options: already checked by :func:`megatron_mmbert.merge.options.check_options`.
    """
    return merge_with_share(method, base, models, options).tensor
