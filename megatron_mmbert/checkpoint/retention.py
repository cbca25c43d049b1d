"""Deleting checkpoints: older ones that a recipe does not keep, and what killed processes have left."""

from __future__ import annotations

import os
from pathlib import Path

from megatron_mmbert.checkpoint.commit import staging_path
from megatron_mmbert.checkpoint.discovery import ValidCheckpoints, committed_checkpoints
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import remove_folder


def apply_retention(
    checkpoints: Path, count: int, every_tokens: int | None = None, known: ValidCheckpoints | None = None
) -> None:
    """Delete all but the newest ``count`` valid checkpoints, and the first after each ``every_tokens`` tokens.

    A checkpoint counts only if it verifies, so that corrupt ones, whatever their steps, never take the place of those
    that a resume can use. The first of a span of tokens is found among those that exist: it is never deleted, so it
    stays the first. A checkpoint whose description cannot be read is neither counted nor deleted.

    Args:
        count: at least 1.
        every_tokens: tokens of the phase; None keeps the newest only.
        known: what this process has verified or written already.
    """
    known = known or ValidCheckpoints()
    described = [(path, _tokens_of(path)) for path in committed_checkpoints(checkpoints)]
    older = [(path, tokens) for path, tokens in described if tokens is not None]
    valid = 0
    while older and valid < count:
        valid += known.problem(older.pop()[0]) is None
    passed = 0
    for path, tokens in older if valid else []:
        if every_tokens is not None and tokens // every_tokens > passed and known.problem(path) is None:
            passed = tokens // every_tokens
            continue
        # Renamed first: when the process is killed while it deletes, no half of a checkpoint bears the name of a whole.
        staging = staging_path(path)
        remove_folder(staging)
        os.replace(path, staging)
        remove_folder(staging)


def remove_leftovers(checkpoints: Path) -> None:
    """Delete the staging folders of processes that were killed while they wrote or deleted a checkpoint."""
    for path in checkpoints.glob(".step-*.tmp"):
        remove_folder(path)


def _tokens_of(path: Path) -> int | None:
    """Return the tokens of the phase so far; None if the description cannot be read."""
    try:
        return read_meta(path).phase_tokens
    except UserError:
        return None
