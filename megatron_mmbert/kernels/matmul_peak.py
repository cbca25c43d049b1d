"""The speed of matrix products on this device: the peak that MFU is measured against, and a sign of slow devices."""

from __future__ import annotations

import time

import torch


def measured_tflops(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Return the best rate of a large plain matrix product on this device, in TFLOP/s (10^12 FLOPs per second)."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.randn(size, size, device=device, dtype=dtype)  # a GPU multiplies ones faster than it can numbers
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        best = min(best, _seconds(a))
    return 2 * size**3 / best / 1e12


def product_seconds(device: torch.device, times: int = 5) -> float:
    """Return the shortest time of a small fixed matrix product, in seconds: work that no other rank has a part in."""
    size = 4096 if device.type == "cuda" else 256
    a = torch.ones(size, size, device=device)
    return min(_seconds(a) for _ in range(times))


def _seconds(a: torch.Tensor) -> float:
    _wait(a)  # for what is queued already, which is not to be timed
    start = time.perf_counter()
    torch.matmul(a, a)
    _wait(a)
    return time.perf_counter() - start


def _wait(a: torch.Tensor) -> None:
    if a.is_cuda:
        torch.cuda.synchronize()
