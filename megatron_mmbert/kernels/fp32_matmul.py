"""The choice of the library that multiplies fp32 matrices on a CPU: MKL, as PyTorch has it, or oneDNN.

On AMD's processors MKL does not use AVX-512, and oneDNN is faster at an encoder's shapes, with the same fp32
arithmetic. PyTorch hands fp32 products to oneDNN only under a setting that *allows* bf16 inside; oneDNN makes use
of that leave on processors with AMX alone, and whether it does is checked here before the setting is kept.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

# oneDNN, which also takes all products in bf16, and PyTorch keep the compiled code of as many shapes each, 1,024 by
# default: of packs of any length that comes to gigabytes. These hold what a pack needs, whose layers all have the same
# shapes.
_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "48", "LRU_CACHE_CAPACITY": "48"}
_UNSET = "none"
_ALLOW_ONEDNN = "bf16"
_CPU_INFO = Path("/proc/cpuinfo")
_settings: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


def backend() -> str:
    """Return the name of the library that is faster here."""
    return "oneDNN" if is_onednn_faster() else "MKL"


def use_fastest() -> None:
    """Choose for this process, once and for all, and bound what oneDNN keeps of shapes, in bf16 too.

    A choice by processor, not by time: the same machine rounds alike in every run. Where the program has set
    ``torch.backends.mkldnn.matmul.fp32_precision`` or ``torch.set_float32_matmul_precision``, it stays.
    """
    for name, shapes in _CACHES.items():  # read at the first product
        os.environ.setdefault(name, shapes)
    if _settings.fp32_precision == _UNSET and is_onednn_faster():
        _settings.fp32_precision = _ALLOW_ONEDNN


@contextmanager
def fastest() -> Iterator[None]:
    """Choose as :func:`use_fastest` within a block, for code in somebody else's program; caches stay as they are."""
    before = _settings.fp32_precision
    if before == _UNSET and is_onednn_faster():
        _settings.fp32_precision = _ALLOW_ONEDNN
    try:
        yield
    finally:
        _settings.fp32_precision = before


@functools.cache
def is_onednn_faster() -> bool:
    """Return whether MKL does not use this processor's AVX-512, and oneDNN, which does, keeps fp32."""
    return _mkl_ignores_avx512() and _keeps_fp32()


def _mkl_ignores_avx512() -> bool:
    has = torch.cpu.get_capabilities()
    suited = torch.backends.mkldnn.is_available() and has.get("avx512_f") and not has.get("amx_tile")
    return bool(suited) and _vendor(_CPU_INFO) == "AuthenticAMD"


def _vendor(cpu_info: Path) -> str:
    try:
        lines = cpu_info.read_text().splitlines()
    except OSError:  # no Linux
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("vendor_id")), "")


def _keeps_fp32() -> bool:
    """Return whether products under the setting know 1 + 2^-20 from 1; bf16 has 8 bits, tf32 has 11."""
    before = _settings.fp32_precision
    x = torch.full((256, 256), 1 + 2.0**-20)
    identity = torch.eye(256)
    _settings.fp32_precision = _ALLOW_ONEDNN
    try:
        products = (torch.mm(x, identity), torch.mm(identity.t(), x.t()), torch.mm(x[:1], identity))
        return all(bool((product == x[0, 0]).all()) for product in products)
    finally:
        _settings.fp32_precision = before
