"""The base class of pipeline steps: datatrove's, or where that is not installed one that says how to get it."""

from __future__ import annotations

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


__all__ = ["PipelineStep"]
