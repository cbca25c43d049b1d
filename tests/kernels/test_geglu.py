"""The exact GeGLU and its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from megatron_mmbert.kernels.geglu import geglu


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(dtype)


def test_the_first_half_is_activated_by_erf() -> None:
    x = draw(5, 1, 12)
    active, linear = x[..., :6], x[..., 6:]
    torch.testing.assert_close(geglu(x), 0.5 * active * (1 + torch.erf(active / 2**0.5)) * linear)
    tanh_form = F.gelu(active, approximate="tanh") * linear
    assert (geglu(x) - tanh_form).abs().max() > 1e-5, "the tanh form must not pass"


def test_gradients() -> None:
    assert torch.autograd.gradcheck(geglu, draw(3, 8).requires_grad_())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dtypes_are_kept(dtype: torch.dtype) -> None:
    x = draw(4, 8, dtype=dtype).requires_grad_()
    out = geglu(x)
    out.sum().backward()
    assert out.dtype == dtype
    assert x.grad is not None
    assert x.grad.dtype == dtype


def test_only_the_input_is_kept() -> None:
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):  # type: ignore[func-returns-value]
        geglu(draw(3, 8).requires_grad_())
    assert kept == [torch.Size([3, 8])]
