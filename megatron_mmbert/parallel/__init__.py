"""The only package that touches Megatron-Core's globals: process groups, devices, seeds, reductions across ranks."""

from megatron_mmbert.parallel.cpu_mode import enable_cpu_mode
from megatron_mmbert.parallel.process_group import process_group
from megatron_mmbert.parallel.runtime import Runtime, current, join, shutdown, start

__all__ = ["Runtime", "current", "enable_cpu_mode", "join", "process_group", "shutdown", "start"]
