"""The process group of a command that trains nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from megatron_mmbert.parallel.cpu_mode import enable_cpu_mode
from megatron_mmbert.parallel.runtime import Runtime, shutdown, start


@contextmanager
def process_group() -> Iterator[Runtime]:
    """Hold a process group of whatever ranks there are, one without torchrun, in CPU mode where there is no GPU.

    It changes the whole process, as :func:`enable_cpu_mode` does: for commands alone.
    """
    enable_cpu_mode()
    runtime = start()
    try:
        yield runtime
    finally:
        shutdown()
