"""Scratch memory: on a CPU, large temporaries of all layers share memory that is taken once and used again and again.

A tensor that is freed leaves a hole among those that are kept for the backward pass. They move into it in part, the
next tensor like the first one finds no room and takes fresh memory, and so the heap grows by a hole a layer. What comes
from the kernel and goes back to it has to be cleared, page by page, each time.

The rule: a tensor of a slot is valid until this thread asks for the slot again. Nothing checks it, and who reads a
tensor too late reads another layer's numbers. To look for such a reader, run with ``MMBERT_POISON_SCRATCH=1`` (or call
:func:`poison_scratch`): then each tensor has memory of its own and begins as NaN, and when the slot is asked for again
the one before becomes NaN. A correct program computes the same bits, a reader that is late computes NaN::

    a = scratch(LARGE, ...)     a is written and read
    b = scratch(LARGE, ...)     b lies on a's memory, or, poisoned, elsewhere, and a is NaN
    a + 1                       wrong, silently; poisoned, NaN
"""

from __future__ import annotations

import ctypes
import math
import mmap
import os
import sys
import threading
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from megatron_mmbert import compat

_Held = dict["Slot | str", torch.UntypedStorage]
_threads = threading.local()
_use_count = compat.STORAGE_USE_COUNT.get()
_MIN_HUGE = 2**27  # bytes; glibc takes as much from the kernel (parallel/cpu_mode.py), so that all pages are new
_poisoned = os.environ.get("MMBERT_POISON_SCRATCH", "0") not in ("", "0")


class Slot(Enum):
    """The pieces of scratch memory. Tensors share one where the first is done with when the second is asked for."""

    LARGE = 0  # attention's weights; a layer's gated activation; the head's logits
    SECOND_LARGE = 1  # the gradient of weights and of their scores; that of the gated activation
    ATTENDED = 2  # attention's output, and its queries' gradient
    ROTATED = 3  # queries, keys and values
    GRADIENT = 4
    VALUES_GRADIENT = 5
    KEYS_GRADIENT = 6


def poison_scratch(enabled: bool) -> None:
    """Switch the search for late readers on or off, for all threads; slow, and takes memory for each tensor."""
    global _poisoned
    _poisoned = enabled


def scratch(slot: Slot, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor with anything in it, valid until this thread asks for the slot again.

    Each is a tensor of its own: autograd, which watches for writes to what it has saved, sees none to an earlier one.
    """
    size = math.prod(shape) * dtype.itemsize
    held = _held()
    if _poisoned and slot in held:
        _poison(held.pop(slot))
    if slot not in held or held[slot].nbytes() < size:
        held.pop(slot, None)
        held[slot] = _new_storage(size)
    return _on(held[slot], shape, dtype)


def recycled(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Return a contiguous tensor with anything in it, for keeps.

    Its memory is used again, for the next of that name, once no tensor is left on it.
    """
    size = math.prod(shape) * dtype.itemsize
    held = _held()
    storage = held.get(name)
    if storage is None or storage.nbytes() != size or _users(storage) > 1:
        storage = held[name] = _new_storage(size)
    elif _poisoned:
        _poison(storage)
    return _on(storage, shape, dtype)


def on_huge_pages(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Ask for huge pages under ``storage``, just allocated and not yet written to; returns it. Small ones stay.

    The kernel then clears and maps 2 MiB at a time instead of 4 KiB. It is advice: where there are no huge pages the
    kernel says so, and nothing changes.
    """
    if storage.nbytes() >= _MIN_HUGE and sys.platform.startswith("linux"):
        start = -(-storage.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        size = storage.nbytes() - mmap.PAGESIZE
        ctypes.CDLL(None).madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), mmap.MADV_HUGEPAGE)
    return storage


def _users(storage: torch.UntypedStorage) -> int:
    """Return how many tensors, and we, hold ``storage``."""
    return int(_use_count(compat.STORAGE_POINTER.of(storage)))


def _held() -> _Held:
    """Return the storages of this thread, by slot or name."""
    held: _Held = _threads.__dict__.setdefault("held", {})
    return held


def _new_storage(size: int) -> torch.UntypedStorage:
    storage = on_huge_pages(torch.UntypedStorage(size))
    return _poison(storage) if _poisoned else storage


def _poison(storage: torch.UntypedStorage) -> torch.UntypedStorage:
    """Set all bits, which is NaN in every floating-point format."""
    _on(storage, (storage.nbytes(),), torch.uint8).fill_(0xFF)
    return storage


def _on(storage: torch.UntypedStorage, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
