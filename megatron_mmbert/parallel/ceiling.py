"""How fast this device multiplies matrices: the peak that a training run's speed is a share of."""

from __future__ import annotations

import time

import torch


def measured_tflops(device: torch.device, dtype: torch.dtype, seconds: float = 0.5) -> float:
    """Best rate of a large plain matrix product on this device, in TFLOP/s (10^12 FLOPs per second)."""
    size = 8192 if device.type == "cuda" else 1024
    a = torch.ones(size, size, device=device, dtype=dtype)
    best, deadline = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        torch.mm(a, a)
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * size**3 / best / 1e12
