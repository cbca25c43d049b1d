"""The environment that CUDA, NCCL and PyTorch's allocator read, set the same by whatever starts the ranks.

A job script may set them, ``torchrun`` typed by hand does not. What is set already stays. ``OMP_NUM_THREADS`` is left
to the launcher (``torchrun`` makes it 1): on a CPU the number of threads is part of the arithmetic, and on a GPU
nothing of a step is computed by them.
"""

from __future__ import annotations

import os

DEFAULTS = {
    # Tensor parallelism overlaps communication with compute only if kernels start in the order they are issued (up to
    # Hopper).
    "CUDA_DEVICE_MAX_CONNECTIONS": "1",
    # Packs of other lengths leave no holes between activations.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
    "TORCH_NCCL_ASYNC_ERROR_HANDLING": "3",  # a failed collective ends the process
    "NCCL_DEBUG": "WARN",  # NCCL's own words when a network card fails, and nothing else
}
_OTHER_NAMES = {"PYTORCH_ALLOC_CONF": ("PYTORCH_CUDA_ALLOC_CONF",)}  # earlier ones, which still work


def set_defaults() -> None:
    """Set what is not set; to be called before CUDA starts, which reads it once."""
    for name, value in DEFAULTS.items():
        if not any(other in os.environ for other in _OTHER_NAMES.get(name, ())):
            os.environ.setdefault(name, value)
