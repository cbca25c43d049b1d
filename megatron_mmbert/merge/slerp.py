"""Spherical interpolation of two models per tensor (Shoemake 1985, "Animating rotation with quaternion curves")."""

from __future__ import annotations

import math

from torch import Tensor

from megatron_mmbert.merge.linear import linear
from megatron_mmbert.merge.norms import inner_product, norm

NEARLY_PARALLEL = 0.9995  # |cos| above which sin(theta) is too small to divide by


def slerp(first: Tensor, second: Tensor, t: float) -> Tensor:
    """sin((1−t)θ)/sin θ · first + sin(tθ)/sin θ · second in float32, θ the angle between the two flattened tensors.

    Two tensors of equal norm give that norm at every ``t``. Nearly parallel, nearly opposite or zero tensors have no
    well-defined arc and are interpolated linearly.
    """
    lengths = norm(first) * norm(second)
    cosine = inner_product(first, second) / lengths if lengths > 0 else 1.0
    if abs(cosine) > NEARLY_PARALLEL:
        return linear([first, second], [1.0 - t, t])
    theta = math.acos(cosine)
    merged = first.float() * (math.sin((1.0 - t) * theta) / math.sin(theta))
    return merged.add_(second.float(), alpha=math.sin(t * theta) / math.sin(theta))
