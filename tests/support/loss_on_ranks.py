"""The vocabulary cut over ranks: every rank's loss and gradients beside those of dense logits in one process.

    python tests/support/loss_on_ranks.py RANKS FOLDER

Writes FOLDER/RANK.pt: the rank's total, row losses and three gradients, in fp64.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.model.memory_saving import chunked_cross_entropy as loss_module
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy

ROWS, WIDTH, VOCAB = 23, 16, 104


def problem() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """fp64 rows, table, bias; labels in every slice, some ignored, and one row whose label is most unlikely."""
    draw = torch.Generator().manual_seed(1)
    x, table, bias = (torch.randn(*size, generator=draw).double() for size in ((ROWS, WIDTH), (VOCAB, WIDTH), (VOCAB,)))
    label = torch.randint(0, VOCAB, (ROWS,), generator=draw)
    label[[3, 11]] = IGNORED_LABEL
    x[5] *= 200
    return x, table, bias, label


def rank(number: int, ranks: int, folder: str) -> None:
    dist.init_process_group("gloo", f"file://{folder}/meet", rank=number, world_size=ranks)
    x, table, bias, label = problem()
    mine = slice(number * VOCAB // ranks, (number + 1) * VOCAB // ranks)
    inputs = [each.clone().requires_grad_() for each in (x, table[mine], bias[mine])]
    loss_module.BYTES_OF_LOGITS["cpu"] = 7 * VOCAB // ranks * 4
    total, rows = chunked_cross_entropy(*inputs, label, dist.group.WORLD)
    grads = torch.autograd.grad(0.37 * total, inputs)
    torch.save([total.detach(), rows, *grads], Path(folder) / f"{number}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.multiprocessing.start_processes(rank, (int(sys.argv[1]), sys.argv[2]), int(sys.argv[1]), start_method="fork")
