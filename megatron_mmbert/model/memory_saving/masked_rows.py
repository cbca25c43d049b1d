"""The masked rows: after its attention the last layer computes only the positions that the loss scores.

Each layer hands all T tokens to the next, whose attention reads them. The last layer's output goes to the head alone,
and in training the head reads nothing but the K masked positions (30 % of the tokens, later 15 and 5 %). So the last
layer makes keys and values of all tokens, and everything after them of K rows only::

    layers 1 ... L - 1     T rows -> norm, qkv, attention, proj, +, norm, mlp, + -> T rows

    layer L                T rows -> norm, qkv -+- keys, values: T rows -+
                             |                  +- queries: K rows ------+-> attention -> proj, dropout -+
                             +-- K of them ------------------------------------------------------------- + -> K rows
                                                                             K rows -> norm, mlp, + -> head

Losses and gradients are those of computing all rows: a row that nothing reads has no gradient.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from megatron_mmbert.model.config import EncoderConfig


@dataclass(frozen=True)
class MaskedRows:
    """The rows of a pack that are wanted of the last layer, in the order in which they are wanted.

    Attributes:
        index_K: int64 [K], positions in the pack, in any order, also repeated.
        total: T, the pack's tokens.
        layer_number: the last layer's, the only one that leaves the other rows out (from 1, as Megatron-Core counts).
    """

    index_K: Tensor
    total: int
    layer_number: int

    def of(self, x_T: Tensor) -> Tensor:
        """Return the wanted rows, [K, ...], of ``x_T``, [T, ...]."""
        return x_T[self.index_K]


def may_leave_rows_out(config: EncoderConfig) -> bool:
    """Return whether the last layer may compute some rows only.

    Not under sequence parallelism, where each rank has other rows and as many as the others; not in FP8, whose products
    want numbers of rows that masked positions do not have.
    """
    return not config.sequence_parallel and not config.fp8
