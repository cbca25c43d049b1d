"""The base class of pipeline steps: datatrove's, or where that is not installed one that says how to get it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import UserError

try:
    from datatrove.pipeline.base import PipelineStep
except ImportError:

    class PipelineStep:  # type: ignore[no-redef]
        """Stands in for datatrove's class, so that importing this package needs nothing that is optional."""

        def __init__(self) -> None:
            raise UserError("datatrove is not installed; pip install 'megatron-mmbert[datatrove]'")

        def stat_update(self, *labels: str, value: int = 1, unit: str | None = None) -> None:
            """Count nothing."""

        def update_doc_stats(self, document: Any) -> None:
            """Count nothing."""


__all__ = ["PipelineStep", "local"]


def local(path: Path | str) -> str:
    """Return a path of the local disk, or of one that all nodes share, as text.

    Raises:
        UserError: it names a place on the net, as datatrove's own steps take it.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(path)):
        raise UserError(f"{path}: token stores and tokenizers are read and written on disks alone; give a folder")
    return str(path)
