"""Rotary position embedding (arXiv 2104.09864), half-split over the whole head width, as ModernBERT's."""

from __future__ import annotations

import torch
from torch import Tensor

from megatron_mmbert.kernels.compiled import compiled_on_gpu


def cos_sin(position_T: Tensor, theta: float, width: int) -> tuple[Tensor, Tensor]:
    """Return the rotation tables of the given positions.

    Args:
        position_T: int [T], a token's position in its own sequence.
        theta: the base; the slowest pair turns once in about 2 pi theta tokens.
        width: head width D, even.

    Returns:
        cos, sin: fp32 [T, 1, D], both halves of D alike.
    """
    exponents = torch.arange(0, width, 2, dtype=torch.int64, device=position_T.device).float() / width
    angles = position_T.float()[:, None] * (1.0 / theta**exponents)[None, :]
    both_halves = torch.cat((angles, angles), dim=-1)[:, None, :]
    return both_halves.cos(), both_halves.sin()


def _rotated(x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
    first, second = x_THD.float().chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_THD.float() * cos_T1D + turned * sin_T1D).to(x_THD.dtype)


@compiled_on_gpu
def rotate(x_THD: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> Tensor:
    """Rotate each pair (x_i, x_{i + D/2}) by its token's angle; computed in fp32, returned in x's dtype."""
    return _rotated(x_THD, cos_T1D, sin_T1D)


@compiled_on_gpu
def rotate_packed(qkv_TH3D: Tensor, cos_T1D: Tensor, sin_T1D: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Take the projection apart: rotated queries, rotated keys, and values, each contiguous [T, H, D].

    Compiled, it is one pass each way: the three gradients are written into that of the projection, where taking it
    apart beforehand would join them by a copy.
    """
    q_THD, k_THD, v_THD = qkv_TH3D.unbind(2)
    values = v_THD.clone(memory_format=torch.contiguous_format)
    return _rotated(q_THD, cos_T1D, sin_T1D), _rotated(k_THD, cos_T1D, sin_T1D), values
