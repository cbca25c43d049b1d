"""Finding checkpoints: those of a phase, the newest valid one, and the one that a path means."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from megatron_mmbert.checkpoint.commit import checksum_problems
from megatron_mmbert.checkpoint.metadata import META_FILE, NAME_ANOTHER, read_meta
from megatron_mmbert.utils.errors import UserError

_STEP_FOLDER = re.compile(r"step-(\d{8,})")


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint after optimizer step ``step`` of a phase."""
    return checkpoints / f"step-{step:08d}"


def committed_checkpoints(checkpoints: Path) -> list[Path]:
    """Return all committed checkpoints of a phase, oldest first; none if the folder does not exist."""
    if not checkpoints.is_dir():
        return []
    found = [(int(match[1]), path) for path in checkpoints.iterdir() if (match := _STEP_FOLDER.fullmatch(path.name))]
    return [path for _, path in sorted(found)]


def newest_valid(checkpoints: Path, warn: Callable[[str], object] = print) -> Path | None:
    """Return the newest checkpoint whose checksums hold; corrupt ones are named through ``warn`` and left alone."""
    for path in reversed(committed_checkpoints(checkpoints)):
        try:
            read_meta(path)
            found = next(checksum_problems(path), None)
        except UserError as error:
            found = str(error)
        if found is None:
            return path
        warn(f"warning: damaged checkpoint skipped: {found}")
    return None


def resolve(path: Path) -> Path:
    """Return a checkpoint folder, given itself, a phase's folder or its ``checkpoints`` folder (its newest valid one).

    Raises:
        UserError: there is none, or the one that was named is corrupt.
    """
    if (path / META_FILE).is_file():
        for problem in checksum_problems(path):
            raise UserError(problem)
        return path
    for folder in (path, path / "checkpoints"):
        newest = newest_valid(folder)
        if newest is not None:
            return newest
    raise UserError(f"{path}: no checkpoint here; {NAME_ANOTHER}")
