"""The cuts that Megatron-Core makes through a logical tensor for tensor-parallel ranks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


def local_shard(full: Tensor, dim: int, stride: int, rank: int, size: int) -> Tensor:
    """Return the part of ``full`` that tensor-parallel rank ``rank`` of ``size`` holds.

    Args:
        full: the logical tensor.
        dim: Megatron's ``partition_dim``; negative means replicated.
        stride: Megatron's ``partition_stride``: the tensor is ``stride`` stacked matrices, each cut on its own
            (2 for the gated fc1, whose halves are [activated; multiplied]).
    """
    if dim < 0 or size == 1:
        return full
    return torch.cat([part.chunk(size, dim)[rank] for part in full.chunk(stride, dim)], dim)


@dataclass(frozen=True)
class Cut:
    """The part of a logical tensor that this rank holds: the arguments of :func:`local_shard`, and the part's shape.

    Attributes:
        shape: of the part, one or two dimensions.
    """

    shape: tuple[int, ...]
    dim: int
    stride: int
    rank: int
    size: int

    @property
    def logical_shape(self) -> tuple[int, ...]:
        return tuple(n * self.size if axis == self.dim else n for axis, n in enumerate(self.shape))


@dataclass(frozen=True)
class Box:
    """A rectangle of a logical tensor that lies in one piece in this rank's flattened part.

    Attributes:
        start, stop: its elements in the flattened part.
        shape: its shape.
        offset: its first element's index in the logical tensor.
    """

    start: int
    stop: int
    shape: tuple[int, ...]
    offset: tuple[int, ...]


def boxes(cut: Cut, start: int, stop: int) -> list[Box]:
    """Return the elements ``start:stop`` of a flattened part as rectangles of the logical tensor.

    The distributed optimizer cuts flat buffers, so a share of a matrix begins and ends within a row: the rest of a row,
    whole rows, the beginning of a row. Checkpoint formats know rectangles only.
    """
    width = cut.shape[1] if len(cut.shape) == 2 else 1
    block = cut.shape[0] // cut.stride if cut.dim == 0 else cut.shape[0]  # rows that stay neighbours when joined
    found: list[Box] = []
    while start < stop:
        row, column = divmod(start, width)
        if column or stop - start < width:
            rows, columns = 1, min(stop, (row + 1) * width) - start
        else:
            rows, columns = min(stop // width, (row // block + 1) * block) - row, width
        if cut.dim == 0:
            row = (row // block) * block * cut.size + cut.rank * block + row % block
        elif cut.dim == 1:
            column += cut.rank * width
        end, one_dim = start + rows * columns, len(cut.shape) == 1
        found.append(Box(start, end, (rows,) if one_dim else (rows, columns), (row,) if one_dim else (row, column)))
        start = end
    return found
