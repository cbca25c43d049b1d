"""Finding checkpoints: those of a phase, the newest valid one, and the one that a path means."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from pathlib import Path

from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, checksum_problems
from megatron_mmbert.checkpoint.metadata import META_FILE, NAME_ANOTHER, read_meta
from megatron_mmbert.utils.errors import UserError

_OF_THE_DISK = (errno.EIO, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EBADMSG, errno.EUCLEAN)
"""Errors that say that a file is not what it was; others, as of too few file numbers, say nothing of it."""
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


class ValidCheckpoints:
    """The checkpoints that this process has verified or written: each is read once, not at every save."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, tuple[int, ...]], str | None] = {}

    def add(self, path: Path) -> None:
        """Note that ``path`` has just been committed by this process, so that its checksums hold."""
        self._known[path, _identity(path)] = None

    def problem(self, path: Path) -> str | None:
        """Return why the checkpoint ``path`` is not valid, or None; its files are read unless they have been before."""
        key = (path, _identity(path))
        if key not in self._known:
            self._known[key] = _first_problem(path)
        return self._known[key]


def newest_valid(
    checkpoints: Path, warn: Callable[[str], object] = print, known: ValidCheckpoints | None = None
) -> Path | None:
    """Return the newest checkpoint whose checksums hold; corrupt ones are named through ``warn`` and left alone.

    Args:
        known: what has been verified already, and takes what is verified here.
    """
    known = known or ValidCheckpoints()
    for path in reversed(committed_checkpoints(checkpoints)):
        problem = known.problem(path)
        if problem is None:
            return path
        warn(f"warning: damaged checkpoint skipped: {problem}")
    return None


def _first_problem(path: Path) -> str | None:
    try:
        read_meta(path)
        return next(checksum_problems(path), None)
    except UserError as error:
        return str(error)
    except OSError as error:
        if error.errno not in _OF_THE_DISK:
            raise  # nothing is known of the checkpoint: an older one must not take its place
        return f"{error.filename or path}: {error.strerror or error}"


def _identity(path: Path) -> tuple[int, ...]:
    """Return what changes when the files that describe a checkpoint are replaced."""
    found: list[int] = []
    for name in (META_FILE, CHECKSUM_FILE):
        try:
            state = (path / name).stat()
        except OSError:
            continue
        found += (state.st_ino, state.st_mtime_ns, state.st_size)
    return tuple(found)


def newest_step(checkpoints: Path, warn: Callable[[str], object] = print) -> tuple[int, bool]:
    """Return (step, whether it is the phase's last) of the newest valid checkpoint; (0, False) for no checkpoint.

    Raises:
        UserError: there are checkpoints, and none is valid.
    """
    path = newest_valid(checkpoints, warn)
    if path is None and committed_checkpoints(checkpoints):
        raise UserError(f"{checkpoints}: none of the checkpoints is valid; copy them again, or move the folder away")
    if path is None:
        return 0, False
    meta = read_meta(path)
    return meta.step, meta.finished


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
