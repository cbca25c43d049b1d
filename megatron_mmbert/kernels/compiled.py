"""Element-wise functions as one kernel each on a GPU, by ``torch.compile``; on a CPU they run as they are written.

Uncompiled, the rotation of queries and keys alone passes eight times over fp32 copies of them. The recipe's
``precision.compile: none`` turns this off for the whole process. Not yet run on a GPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled_on_gpu(function: Function) -> Function:
    """Return ``function``, whose first argument is a tensor, compiled at its first use with a tensor on a GPU."""

    @functools.cache
    def fast() -> Callable[..., Any]:
        return torch.compile(function)

    @functools.wraps(function)
    def call(first: torch.Tensor, *rest: Any, **options: Any) -> Any:
        return fast()(first, *rest, **options) if first.is_cuda else function(first, *rest, **options)

    return call  # type: ignore[return-value]


def switch_off() -> None:
    """Compile nothing from now on in this process (FlexAttention, which is nothing without it, excepted)."""
    torch.compiler.set_stance("force_eager")
