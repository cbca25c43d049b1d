"""Functions that are compiled on a GPU: plain on a CPU, and what they compile to computes the same."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounter

from megatron_mmbert.kernels import compiled
from megatron_mmbert.kernels.geglu import _composed, geglu
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import _exponentiate_block, _peaks_of_block
from megatron_mmbert.model.rope import cos_sin, rotate, rotate_packed

FUNCTIONS: dict[str, tuple[Callable[..., Tensor], Callable[[], list[Tensor]]]] = {
    "geglu": (_composed, lambda: [torch.randn(6, 1, 16)]),
    "rotate": (rotate, lambda: [torch.randn(7, 2, 8), *cos_sin(torch.arange(7), 1e4, 8)]),
    "rotate_packed": (rotate_packed, lambda: [torch.randn(7, 2, 3, 8), *cos_sin(torch.arange(7), 1e4, 8)]),
    "peaks": (_peaks_of_block, lambda: [torch.randn(5, 40), torch.randn(40)]),
    "peaks, bf16": (_peaks_of_block, lambda: [torch.randn(5, 40).bfloat16(), torch.randn(40).bfloat16()]),
    "exponentiate": (_exponentiate_block, lambda: [torch.randn(5, 40), torch.randn(40), torch.full((5,), 3.0)]),
    "exponentiate, bf16": (
        _exponentiate_block,
        lambda: [torch.randn(5, 40).bfloat16(), torch.randn(40).bfloat16(), torch.full((5,), 3.0)],
    ),
}


def test_on_a_cpu_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("compiled")

    monkeypatch.setattr(torch, "compile", refuse)
    function = compiled.compiled_on_gpu(lambda x, y: x + y)
    assert function(torch.ones(2), 1).tolist() == [2, 2]


def test_the_composition_is_the_function_that_cpus_run() -> None:
    x = torch.randn(9, 1, 32, dtype=torch.float64, requires_grad=True)
    for ours, theirs in zip(_and_gradient(_composed, x), _and_gradient(geglu, x), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def _and_gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    out = function(x)
    return [out, *torch.autograd.grad(out.square().sum(), x)]


def test_one_variant_serves_all_numbers_of_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond eight variants PyTorch runs a function uncompiled, without a word."""
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counter))
    fast = compiled.compiled_for_any_length(rotate.__wrapped__)  # type: ignore[attr-defined]
    with torch.compiler.set_stance("default"), torch.no_grad():
        for tokens in (7, 12, 30, 31):
            fast(torch.randn(tokens, 2, 8), *cos_sin(torch.arange(tokens), 1e4, 8))
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", FUNCTIONS)
def test_compiled_they_compute_the_same(name: str) -> None:
    """By the compiler for CPUs, which traces and fuses as that for GPUs does."""
    if shutil.which("g++") is None:
        pytest.skip("g++ is missing")
    function, inputs = FUNCTIONS[name]
    plain = function.__wrapped__  # type: ignore[attr-defined]
    torch.manual_seed(0)
    given = inputs()
    theirs = [x.clone() for x in given]
    with torch.compiler.set_stance("default"):
        out = torch.compile(plain)(*given)
    torch.testing.assert_close(out, plain(*theirs), rtol=1e-5, atol=1e-6)
    for mine, other in zip(given, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-5, atol=1e-6)  # what is changed in place
