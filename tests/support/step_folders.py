"""Checkpoint folders that are valid though no tensors are in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from megatron_mmbert.checkpoint.commit import committed_checkpoint
from megatron_mmbert.checkpoint.metadata import write_meta
from support.run_to_save import META


def write(path: Path, content: bytes = b"tensors", tokens: int = 0, **described: Any) -> Path:
    """Commit the checkpoint ``path`` with one file of ``content``; ``described`` replaces fields of its description."""
    with committed_checkpoint(path, overwrite=True) as folder:
        (folder / "data.distcp").write_bytes(content)
        write_meta(folder, META.model_copy(update={"phase_tokens": tokens, "total_tokens": tokens, **described}))
    return path
