"""Local attention's memory layout: each head a strip of blocks, so that a block's keys are a view of the strip.

A strip is a margin of zeros followed by the tokens in N blocks of B; heads follow one another, so that the margin
behind one head is the margin before the next, and all blocks of all heads are ONE batch with one stride: H * (N + 1)
blocks, of which the last of each head lies on the margin and is never read. Keys of block b are blocks b - 1, b, b + 1.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_mmbert.attention.interface import SequenceLayout

SMALLEST_BLOCK = 64  # tokens; below this the per-block overhead outweighs the masked scores saved


class LocalBlocks:
    """Shapes and views for H heads of T tokens of width D under a window."""

    def __init__(self, heads: int, tokens: int, width: int, window: int, dtype: torch.dtype) -> None:
        self.heads, self.tokens, self.width, self.window, self.dtype = heads, tokens, width, window, dtype
        self.block = max(SMALLEST_BLOCK, math.ceil(window / SMALLEST_BLOCK) * SMALLEST_BLOCK)
        self.blocks_per_head = math.ceil(tokens / self.block)
        self.batch = heads * (self.blocks_per_head + 1)
        self.shape = (self.batch + 2, self.block, width)

    def cleared(self, strip: Tensor) -> Tensor:
        """``strip`` [batch + 2, B, D] with zeros wherever no token lies."""
        strip[0].zero_()
        strip[-1].zero_()
        self.by_head(strip[1:-1])[:, -1].zero_()
        used = self.tokens - (self.blocks_per_head - 1) * self.block
        self.by_head(strip[1:-1])[:, -2, used:].zero_()
        return strip

    def by_head(self, batched: Tensor) -> Tensor:
        """[batch, ...] as [H, N + 1, ...]."""
        return batched.view(self.heads, self.blocks_per_head + 1, *batched.shape[1:])

    def blocks(self, strip: Tensor) -> Tensor:
        """[batch, B, D]: each block's own tokens."""
        return strip[1:-1]

    def neighbourhoods(self, strip: Tensor) -> Tensor:
        """[batch, 3 B, D]: each block with the one before and the one after it; an overlapping view."""
        size = self.block * self.width
        return strip.as_strided((self.batch, 3 * self.block, self.width), (size, self.width, 1))

    def tokens_of(self, strip: Tensor) -> Tensor:
        """[H, T, D]: the strip's tokens."""
        return self.tokens_of_blocks(strip[1:-1])

    def tokens_of_blocks(self, batched: Tensor) -> Tensor:
        """[H, T, D] of [batch, B, D]."""
        per_head = (self.blocks_per_head + 1) * self.block
        return batched.view(self.heads, per_head, self.width)[:, : self.tokens]

    def scatter(self, pairs: Tensor, rows: Tensor, strip: Tensor, scale: float = 1.0) -> Tensor:
        """The transpose of a product with neighbourhoods: a strip of sums over the blocks that see each token.

        Args:
            pairs: [batch, B, 3 B], a value of every query and key of its neighbourhood.
            rows: [batch, B, D].
            strip: [batch + 2, B, D], written to and returned.
        """
        strip[-2:].zero_()
        for place in range(3):
            part = pairs[:, :, place * self.block : (place + 1) * self.block].transpose(1, 2)
            target = strip[place : place + self.batch]
            target.baddbmm_(part, rows, beta=min(place, 1), alpha=scale)
        return strip


def band_mask(layout: SequenceLayout, strips: LocalBlocks) -> Tensor:
    """[N + 1, B, 3 B] of 0 (seen) and -inf. Rows on which no token lies see everything: no row is empty."""
    block, blocks = strips.block, strips.blocks_per_head + 1
    sample = layout.sample_of_token
    padded = F.pad(sample, (block, (blocks + 1) * block - len(sample)), value=-1)
    keys_NK = padded.unfold(0, 3 * block, block)
    queries_NB = padded[block:-block].view(blocks, block)
    place = torch.arange(3 * block)
    near_BK = (place[None, :] - place[block : 2 * block, None]).abs() <= strips.window
    seen = (queries_NB[:, :, None] == keys_NK[:, None, :]) & near_BK | (queries_NB < 0)[:, :, None]
    hidden = torch.full((), float("-inf"), dtype=strips.dtype)
    return torch.where(seen, hidden.new_zeros(()), hidden)
