"""Bandwidths of this machine in 10^9 bytes per second: of a memory, between host and device, and over ranks."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

_HOST_BYTES, _DEVICE_BYTES, _EXCHANGED_BYTES = 1 << 28, 1 << 32, {"cpu": 1 << 25, "cuda": 1 << 29}


def copied(device: torch.device) -> float:
    """Return the bytes read and written by a copy far larger than any cache of a GPU, per second."""
    size = _DEVICE_BYTES if device.type == "cuda" else _HOST_BYTES
    source = torch.ones(size, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * size / best_seconds(lambda: target.copy_(source), device) / 1e9


def transferred(to_device: bool) -> float:
    """Return the rate of a copy between page-locked memory of the host and the GPU."""
    on_device = torch.ones(_HOST_BYTES, dtype=torch.uint8, device="cuda")
    on_host = torch.ones(_HOST_BYTES, dtype=torch.uint8).pin_memory()
    source, target = (on_host, on_device) if to_device else (on_device, on_host)
    seconds = best_seconds(lambda: target.copy_(source, non_blocking=True), on_device.device)
    return _HOST_BYTES / seconds / 1e9


def all_reduced(device: torch.device) -> float:
    """Return the bus bandwidth of one large sum over all ranks: 2 (n - 1) / n of its bytes cross a rank's link.

    A collective.

    Args:
        device: where this rank's values lie.
    """
    ranks, size = dist.get_world_size(), _EXCHANGED_BYTES[device.type]
    values = torch.ones(size // 4, device=device)

    def exchange() -> None:
        dist.all_reduce(values)
        values.fill_(1.0)

    return 2 * (ranks - 1) / ranks * size / best_seconds(exchange, device) / 1e9


def best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Return the shortest time of several runs of ``work``, after a first that does not count."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])
