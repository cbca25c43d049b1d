"""Committing a checkpoint whole or not at all: a staging folder, checksums, and one rename.

A checkpoint is one folder: Megatron-Core's distributed tensors, ``checkpoint.json`` and ``checksums.json``. It is
written under a dot name and renamed when every rank has written and every byte is on the disk, so a folder called
``step-…`` is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

from megatron_mmbert.checkpoint.metadata import META_FILE
from megatron_mmbert.utils.checksums import CHECKSUM_FILE, files_of, problems, read_checksums, write_checksums
from megatron_mmbert.utils.files import sync
from megatron_mmbert.utils.output_kinds import CHECKPOINT
from megatron_mmbert.utils.outputs import output_folder

__all__ = ["CHECKSUM_FILE", "checksum_problems", "committed_checkpoint", "finalize", "staging_path"]
REMEDY = "take another checkpoint"
_READ = (META_FILE, ".metadata", "metadata.json")  # beside tensors, what loading reads; a report may lie there too


def staging_path(path: Path) -> Path:
    """Return the name under which the checkpoint ``path`` is written before the commit."""
    return path.with_name(f".{path.name}.tmp")


@contextmanager
def committed_checkpoint(path: Path, inputs: Sequence[Path] = (), overwrite: bool = False) -> Iterator[Path]:
    """Yield a staging folder; on success it is checksummed, synced and renamed to ``path``, else it is removed.

    For one process; training, whose ranks write together, has :mod:`.async_saver`.

    Raises:
        UserError: as :func:`~megatron_mmbert.utils.outputs.check_output`.
    """
    with output_folder(path, CHECKPOINT, inputs, overwrite) as staging:
        yield staging
        finalize(staging)


def finalize(folder: Path, known: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Write the checksums of all files in ``folder``, and sync the files and the folder to the disk.

    Args:
        known: checksums, by file name, of files that have been synced already.
    """
    write_checksums(folder, known)
    sync(folder)


def checksum_problems(path: Path, progress: Callable[[int], None] = lambda done: None) -> Iterator[str]:
    """Yield one sentence for each file of a checkpoint that is missing, of other content, or read though not listed.

    Args:
        progress: called with the bytes of each file after it has been read.

    Raises:
        UserError: the list of checksums is missing or corrupt.
    """
    yield from problems(path, REMEDY, progress)
    known = read_checksums(path, REMEDY)
    for name in files_of(path):
        if name not in known and (name in _READ or name.endswith((".distcp", ".pt"))):
            yield f"{path / name}: not in the checkpoint's list of files; {REMEDY}"
