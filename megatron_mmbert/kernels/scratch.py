"""Memory that is taken once and used again and again, on a CPU.

A tensor that is freed leaves a hole among those that are kept for the backward pass. They move into it in part, the
next tensor like the first one finds no room and takes fresh memory, and so the heap grows by a hole a layer. What comes
from the kernel and goes back to it has to be cleared, page by page, each time.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from enum import Enum

import torch
from torch import Tensor

from megatron_mmbert import compat
from megatron_mmbert.kernels.huge_pages import on_huge_pages

_Held = dict["Slot | str", torch.UntypedStorage]
_threads = threading.local()
_use_count = compat.STORAGE_USE_COUNT.get()


class Slot(Enum):
    """Places of scratch. Tensors share one only where the first is done with when the second is asked for."""

    LARGE = 0  # attention's weights; a layer's gated activation; the head's logits
    SECOND_LARGE = 1  # the gradient of weights and of their scores; that of the gated activation
    ATTENDED = 2  # attention's output, and its queries' gradient
    TURNED = 3  # queries, keys and values
    GRADIENT = 4
    VALUES_GRADIENT = 5
    KEYS_GRADIENT = 6


def scratch(slot: Slot, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor with anything in it, valid until this thread asks for the slot again.

    Each is a tensor of its own: autograd, which watches for writes to what it has saved, sees none to an earlier one.
    """
    size = math.prod(shape) * dtype.itemsize
    held = _held()
    if slot not in held or held[slot].nbytes() < size:
        held.pop(slot, None)
        held[slot] = _storage(size)
    return _on(held[slot], shape, dtype)


def recycled(name: str, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """A contiguous tensor with anything in it, for keeps: its memory is used again once no tensor is left on it."""
    size = math.prod(shape) * dtype.itemsize
    held = _held()
    storage = held.get(name)
    if storage is None or storage.nbytes() != size or _users(storage) > 1:
        storage = held[name] = _storage(size)
    return _on(storage, shape, dtype)


def _users(storage: torch.UntypedStorage) -> int:
    """Return how many tensors, and we, hold ``storage``."""
    return int(_use_count(compat.STORAGE_POINTER.of(storage)))


def _held() -> _Held:
    """This thread's."""
    held: _Held = _threads.__dict__.setdefault("held", {})
    return held


def _storage(size: int) -> torch.UntypedStorage:
    return on_huge_pages(torch.UntypedStorage(size))


def _on(storage: torch.UntypedStorage, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    return torch.empty(0, dtype=dtype).set_(storage, 0, tuple(shape))  # type: ignore[call-overload]
