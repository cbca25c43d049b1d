"""The only room that touches Megatron-Core's globals: process groups, devices, seeds, reductions across ranks."""

from megatron_mmbert.parallel.runtime import Runtime, current, shutdown, start

__all__ = ["Runtime", "current", "shutdown", "start"]
