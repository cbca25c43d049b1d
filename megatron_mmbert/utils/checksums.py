"""``checksums.json``: size and SHA-256 of every file in an output folder, and what is no longer as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json, sync, write_json

CHECKSUM_FILE = "checksums.json"
Checksums = dict[str, dict[str, Any]]


def write_checksums(folder: Path, known: Mapping[str, dict[str, Any]] = MappingProxyType({})) -> None:
    """Write the checksums of all files in ``folder``, each of which is synced to the disk.

    Args:
        known: checksums, by file name, of files that have been synced already.
    """
    names = files_of(folder)
    for name in names:
        if name not in known:
            sync(folder / name)
    write_json(folder / CHECKSUM_FILE, {name: known.get(name) or checksum(folder / name) for name in names})


def read_checksums(folder: Path, remedy: str) -> Checksums:
    """Return the content of ``checksums.json``.

    Raises:
        UserError: it is missing or damaged; the sentence ends with ``remedy``.
    """
    known = read_json(folder / CHECKSUM_FILE, "list of checksums", remedy)
    names = known if isinstance(known, dict) else ["/"]
    outside = any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in names)
    if outside or not all(isinstance(each, dict) for each in known.values()):
        raise UserError(f"{folder / CHECKSUM_FILE}: damaged list of checksums; {remedy}")
    return dict(known)


def file_problem(folder: Path, name: str, known: Checksums, remedy: str, whole: bool = True) -> str | None:
    """Return what is wrong with the file ``name`` of a list of checksums, or None.

    Args:
        whole: read the file; else only its size is compared.
    """
    file = folder / name
    if name not in known:
        return f"{file}: not in the list of files {CHECKSUM_FILE}; {remedy}"
    if not file.is_file():
        return f"{file}: missing; {remedy}"
    same = checksum(file) == known[name] if whole else file.stat().st_size == known[name].get("bytes")
    return None if same else f"{file}: content differs from its checksum; {remedy}"


def problems(folder: Path, remedy: str, progress: Callable[[int], None] = lambda done: None) -> Iterator[str]:
    """Yield one sentence for each file of the list that is missing or of other content.

    Args:
        progress: called with the bytes of each file after it has been read.

    Raises:
        UserError: the list of checksums is missing or damaged.
    """
    known = read_checksums(folder, remedy)
    for name in known:
        problem = file_problem(folder, name, known, remedy)
        if problem:
            yield problem
        progress((folder / name).stat().st_size if (folder / name).is_file() else 0)


def files_of(folder: Path) -> list[str]:
    """Return the names of all files below ``folder``, relative to it, without the list of checksums itself."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if name != CHECKSUM_FILE]


def checksum(file: Path) -> dict[str, Any]:
    """Return size and digest as ``checksums.json`` has them."""
    with file.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": digest}
