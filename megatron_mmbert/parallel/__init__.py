"""The only room that touches Megatron-Core's globals: process groups, devices, seeds, reductions across ranks."""

import warnings

# Megatron-Core warns, file by file, of each optional package that is absent and of deprecated torch calls of its own.
warnings.filterwarnings("ignore", module=r"megatron\.core")

from megatron_mmbert.parallel.runtime import Runtime, current, join, shutdown, start  # noqa: E402

__all__ = ["Runtime", "current", "join", "shutdown", "start"]
