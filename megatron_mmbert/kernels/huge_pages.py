"""Large memory on huge pages: the kernel clears and maps 2 MiB at a time instead of 4 KiB."""

from __future__ import annotations

import ctypes
import mmap
import sys

import torch

_SMALLEST = 2**27  # bytes; glibc takes as much from the kernel (parallel/cpu_mode.py), so that all pages are new


def on_huge_pages(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """``storage`` on the CPU, just allocated and not yet written to; smaller ones stay as they are."""
    if storage.nbytes() >= _SMALLEST and sys.platform.startswith("linux"):
        start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = storage.nbytes() - mmap.PAGESIZE
        # Advice: where the kernel has no huge pages it says so, and nothing changes.
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return storage
