"""Megatron's indexed dataset, imported late and quietly.

Importing anything of ``megatron.core`` costs seconds and prints warnings about GPU libraries that a data command never
uses. Commands that end on bad input should end at once, so only the code that reads or writes a shard calls this.
"""

from __future__ import annotations

import functools
import warnings
from types import ModuleType

BIN_ENDING = ".bin"
IDX_ENDING = ".idx"


@functools.cache
def indexed_dataset() -> ModuleType:
    """The module ``megatron.core.datasets.indexed_dataset``."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from megatron.core.datasets import indexed_dataset as module
    return module
