"""StableAdamW's RMS over logical tensors: tensor-parallel ranks add up what they hold of each."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from megatron_mmbert.parallel.runtime import current


def tensor_parallel_rms(squares_P: Tensor, params: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """(sum of squares, number of elements) of every logical tensor, fp64 [P] each.

    A tensor that is cut over the tensor-parallel ranks (Megatron-Core marks it) is summed over them; one that every
    rank holds whole has the same gradient on all, so its own sum is the logical one. The tied table on the last
    pipeline stage is such a copy too: its gradient was added to the first stage's before the step.
    """
    size = current().tp_size
    split = [getattr(param, "tensor_model_parallel", False) for param in params]
    counts = [param.numel() * (size if cut else 1) for param, cut in zip(params, split, strict=True)]
    count_P = torch.tensor(counts, dtype=torch.float64).to(squares_P.device, non_blocking=True)
    if size == 1:
        return squares_P, count_P
    from megatron.core import parallel_state

    split_P = torch.tensor(split).to(squares_P.device, non_blocking=True)
    summed_P = squares_P.clone()
    dist.all_reduce(summed_P, group=parallel_state.get_tensor_model_parallel_group())
    return torch.where(split_P, summed_P, squares_P), count_P
