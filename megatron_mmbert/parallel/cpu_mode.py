"""The CPU mode: lets Megatron-Core 0.16.1 run on a machine without CUDA (gloo), by the same code as on GPUs.

Megatron-Core names CUDA in places that only ask "where do tensors live" or "which random state". Each name patched
here raises on a machine without CUDA, so no working behaviour changes; on a machine with CUDA :func:`enable_cpu_mode`
does nothing. Everything CPU-specific about Megatron-Core is in this file and nowhere else.

It changes the whole process (names of torch and Megatron-Core, glibc's allocator, oneDNN, ``torch.compile``), so it is
for commands, which own their process: they call it first, and no other function of this package does.
"""

from __future__ import annotations

import ctypes
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from megatron_mmbert import compat
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.parallel import environment
from megatron_mmbert.utils.errors import UserError

_CPU = torch.device("cpu")
_CUDA_TYPES = {
    "torch.FloatTensor": "torch.cuda.FloatTensor",
    "torch.BFloat16Tensor": "torch.cuda.BFloat16Tensor",
    "torch.HalfTensor": "torch.cuda.HalfTensor",
}
_ALLOCATOR_SETTINGS = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "GLIBC_TUNABLES")
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # of <malloc.h>
# Activations come from memory that is kept; what has the word embedding's size, and would leave a hole that nothing
# else fills, from the kernel.
_MALLOC_OPTIONS = {_M_MMAP_THRESHOLD: 2**27, _M_TRIM_THRESHOLD: 2**31 - 1, _M_TOP_PAD: 2**26}
_enabled = False


def enable_cpu_mode() -> bool:
    """Patch torch and Megatron-Core for the rest of this process; return whether this machine needs it.

    A second call changes nothing, nor does any call where there is a CUDA device.
    """
    global _enabled
    environment.set_defaults()  # before PyTorch looks for a device
    if torch.cuda.is_available():
        return False
    if not _enabled:
        _keep_freed_memory()
        fp32_matmul.use_fastest()
        _patch_torch()
        _patch_rng()
        _patch_optimizers()
        _patch_recompute()
        _enabled = True
    return True


def device_type() -> str:
    """Return the kind of device that this process trains on, ``cuda`` or ``cpu``.

    Raises:
        UserError: there is no CUDA device, and the CPU mode is not enabled.
    """
    if torch.cuda.is_available():
        return "cuda"
    if not _enabled:
        raise UserError(
            "PyTorch finds no CUDA device here; to run Megatron-Core on CPUs, call "
            "megatron_mmbert.parallel.enable_cpu_mode() first, which patches torch and Megatron-Core in this process"
        )
    return "cpu"


def _keep_freed_memory() -> None:
    """Have glibc reuse what tensors free. By default it hands every tensor above 32 MiB back to the kernel, which
    clears each page anew. Where the user has set the allocator, or without glibc, nothing changes."""
    if not sys.platform.startswith("linux") or any(name in os.environ for name in _ALLOCATOR_SETTINGS):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # absent in other C libraries
    if mallopt is not None:
        for option, value in _MALLOC_OPTIONS.items():
            mallopt(option, value)


def _patch_torch() -> None:
    torch.cuda.current_device = lambda: _CPU  # type: ignore[assignment, return-value]
    torch.cuda.synchronize = lambda device=None: None  # type: ignore[assignment, misc]
    torch.Tensor.cuda = lambda self, *args, **kwargs: self  # type: ignore[assignment, method-assign]
    # torch lists its constructors for `with torch.device(...)` at first use: the list must hold the originals.
    compat.DEVICE_CONSTRUCTORS.get()()
    for name in ("tensor", "zeros", "empty", "ones", "empty_like"):
        setattr(torch, name, _on_cpu(getattr(torch, name)))
    # Megatron-Core wraps small element-wise functions in torch.compile; on a CPU that costs more than it brings.
    torch.compiler.set_stance("force_eager")


def _on_cpu(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Return a tensor constructor that takes ``device='cuda'`` to mean the CPU and needs no pinned memory."""

    @functools.wraps(make)
    def construct(*args: Any, **kwargs: Any) -> torch.Tensor:
        if str(kwargs.get("device", "")).startswith("cuda"):
            kwargs["device"] = _CPU
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return make(*args, **kwargs)

    return construct


def _patch_rng() -> None:
    """Megatron's "CUDA" random state becomes that of the CPU's one generator."""

    def get_state(device: Any = None) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(state: torch.Tensor, device: Any = None) -> None:
        torch.set_rng_state(state)

    def seed(value: int) -> None:
        torch.default_generator.manual_seed(value)

    for module in (torch.cuda, torch.cuda.random):
        for name, replacement in (("get_rng_state", get_state), ("set_rng_state", set_state), ("manual_seed", seed)):
            setattr(module, name, replacement)
    compat.GET_RNG_STATE.replace(lambda device="cuda", clone=False, graph_safe=False: torch.get_rng_state())
    compat.SET_RNG_STATE.replace(lambda state, device=-1, graph_safe=False: torch.set_rng_state(state))
    # "CPU RNG state changed within GPU RNG context" is always so here: there is one generator.
    logging.getLogger(compat.GET_RNG_STATE.owner).addFilter(lambda record: "CPU RNG state changed" not in record.msg)


def _patch_optimizers() -> None:
    """Megatron's optimizers and clipping ask for ``torch.cuda.FloatTensor``; tell them so while they run."""
    for row in (compat.HALF_OPTIMIZER_INIT, compat.DISTRIBUTED_OPTIMIZER_INIT, *compat.CLIP_BY_NORM):
        row.replace(_with_cuda_types(row.get()))


def _with_cuda_types(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        with _cuda_type_names():
            return function(*args, **kwargs)

    return call


@contextmanager
def _cuda_type_names() -> Iterator[None]:
    original = torch.Tensor.type

    def type_name(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        result = original(self, *args, **kwargs)
        return _CUDA_TYPES.get(result, result) if isinstance(result, str) else result

    torch.Tensor.type = type_name  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        torch.Tensor.type = original  # type: ignore[method-assign]


def _patch_recompute() -> None:
    """Without Transformer Engine ``fp8=False`` is taken as "FP8 on"; None takes the path without FP8."""
    compat.RECOMPUTE_INIT.get().__defaults__ = (None,)
