"""Element-wise functions as one kernel each on a GPU, by ``torch.compile``; on a CPU they run as they are written.

Uncompiled, the rotation of queries and keys alone passes eight times over fp32 copies of them. The recipe's
``precision.compile: none`` turns this off for the whole process. Not yet run on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from megatron_mmbert import compat

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled_on_gpu(function: Function) -> Function:
    """Return ``function``, whose first argument is a tensor, compiled at its first use with a tensor on a GPU."""

    fast = compiled_for_any_length(function)

    @functools.wraps(function)
    def call(first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return fast(first, *rest, **options) if first.is_cuda else function(first, *rest, **options)

    return call  # type: ignore[return-value]


def compiled_for_any_length(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return ``function`` compiled at its first use, for tensors of any first dimension (tokens or rows).

    PyTorch keeps some eight variants of a function, and beyond them runs it uncompiled without a word. Left to find out
    by itself that the first dimension varies, it makes two for each dtype, memory layout and use of gradients. The
    other dimensions are the model's widths: known, they make better code.
    """

    @functools.cache
    def compiled() -> tuple[Callable[..., Any], Callable[..., None]]:
        return torch.compile(function), compat.MAYBE_MARK_DYNAMIC.get()

    @functools.wraps(function)
    def call(first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        fast, mark_dynamic = compiled()
        for value in (first, *rest):
            if isinstance(value, torch.Tensor) and value.ndim and len(value) == len(first):
                mark_dynamic(value, 0)
        return fast(first, *rest, **options)

    return call


def switch_off() -> None:
    """Compile nothing from now on in this process (FlexAttention, which is nothing without it, excepted)."""
    torch.compiler.set_stance("force_eager")
