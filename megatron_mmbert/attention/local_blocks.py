"""Local attention block by block: which blocks see which, their mask, and a memory layout without copies.

A pack is cut into N blocks of B tokens, B at least the window, so that a block of queries sees its own block of keys,
the one before and the one after it; a mask cuts the window and the bounds of the sequences out of these three::

    keys       | b - 1 | b | b + 1 |
    queries            | b |              time and memory are O(T * window), whatever the sequences' lengths

:class:`LocalBlocks` is the CPU engine's memory layout of it: each head is a zero block (its margin) and then its tokens
in blocks; heads follow one another, so that the margin after one head is the margin before the next, and all blocks of
all heads are ONE batch with one stride: H * (N + 1) blocks, of which the last of each head lies on the margin and is
never read. The three key blocks of a block are then a view of that memory, never a copy.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_mmbert.attention.interface import SequenceLayout

_MIN_BLOCK = 64  # tokens; below this the per-block overhead outweighs the masked scores saved


def block_size(window_each_side: int) -> int:
    """Return B, the tokens of a block: the window, rounded up to a multiple of the smallest block."""
    return max(1, math.ceil(window_each_side / _MIN_BLOCK)) * _MIN_BLOCK


def band_mask(layout: SequenceLayout, window_each_side: int, blocks: int, dtype: torch.dtype) -> Tensor:
    """Return [blocks, B, 3 B] of 0 (seen) and -inf, for each block of queries over its three blocks of keys.

    Rows on which no token lies see everything: no row is empty.
    """
    block, sample = block_size(window_each_side), layout.sample_of_token
    padded = F.pad(sample, (block, (blocks + 1) * block - len(sample)), value=-1)
    keys_NK = padded.unfold(0, 3 * block, block)
    queries_NB = padded[block:-block].view(blocks, block)
    index = torch.arange(3 * block, device=sample.device)
    near_BK = (index[None, :] - index[block : 2 * block, None]).abs() <= window_each_side
    seen = (queries_NB[:, :, None] == keys_NK[:, None, :]) & near_BK | (queries_NB < 0)[:, :, None]
    hidden = torch.full((), float("-inf"), dtype=dtype, device=sample.device)
    return torch.where(seen, hidden.new_zeros(()), hidden)


class LocalBlocks:
    """Shapes and views for H heads of T tokens of width D under a window.

    ``padded`` is always a tensor [batch + 2, B, D] in the layout that this file describes.
    """

    def __init__(self, heads: int, tokens: int, width: int, window: int, dtype: torch.dtype) -> None:
        self.heads, self.tokens, self.width, self.window, self.dtype = heads, tokens, width, window, dtype
        self.block = block_size(window)
        self.blocks_per_head = math.ceil(tokens / self.block)
        self.batch = heads * (self.blocks_per_head + 1)
        self.shape = (self.batch + 2, self.block, width)

    def mask(self, layout: SequenceLayout) -> Tensor:
        """Return [N + 1, B, 3 B], made once for a pack; see :func:`band_mask`."""
        key = ("local blocks", self.window, self.dtype)
        return layout.derive(key, lambda: band_mask(layout, self.window, self.blocks_per_head + 1, self.dtype))

    def cleared(self, padded: Tensor) -> Tensor:
        """Return ``padded`` with zeros written wherever no token lies."""
        padded[0].zero_()
        padded[-1].zero_()
        self.by_head(padded[1:-1])[:, -1].zero_()
        used = self.tokens - (self.blocks_per_head - 1) * self.block
        self.by_head(padded[1:-1])[:, -2, used:].zero_()
        return padded

    def by_head(self, batched: Tensor) -> Tensor:
        """Return [batch, ...] as [H, N + 1, ...]."""
        return batched.view(self.heads, self.blocks_per_head + 1, *batched.shape[1:])

    def own_blocks(self, padded: Tensor) -> Tensor:
        """Return [batch, B, D]: each block's own tokens."""
        return padded[1:-1]

    def key_blocks(self, padded: Tensor) -> Tensor:
        """Return [batch, 3 B, D]: each block with the one before and the one after it; an overlapping view."""
        size = self.block * self.width
        return padded.as_strided((self.batch, 3 * self.block, self.width), (size, self.width, 1))

    def tokens_of(self, padded: Tensor) -> Tensor:
        """Return [H, T, D]: the tokens in ``padded``."""
        return self.tokens_of_blocks(padded[1:-1])

    def tokens_of_blocks(self, batched: Tensor) -> Tensor:
        """Return [H, T, D]: the tokens in [batch, B, D]."""
        per_head = (self.blocks_per_head + 1) * self.block
        return batched.view(self.heads, per_head, self.width)[:, : self.tokens]

    def scatter(self, pairs: Tensor, rows: Tensor, padded: Tensor, scale: float = 1.0) -> Tensor:
        """Return ``padded`` with each token's sum over the queries that see it: the transpose of a product with keys.

        Args:
            pairs: [batch, B, 3 B], a value of every query and key.
            rows: [batch, B, D], what each query gives to its keys.
            padded: written to and returned.
        """
        padded[-2:].zero_()
        for third in range(3):
            part = pairs[:, :, third * self.block : (third + 1) * self.block].transpose(1, 2)
            target = padded[third : third + self.batch]
            target.baddbmm_(part, rows, beta=min(third, 1), alpha=scale)
        return padded
