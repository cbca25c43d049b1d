"""Writing whole outputs or none: everything is written under a staging name and published by one rename."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on an exception it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield staging
        with staging.open("rb") as written:
            os.fsync(written.fileno())
        os.replace(staging, path)
    finally:
        staging.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``; on success it becomes ``path``, on an exception it is removed.

    Raises:
        UserError: ``path`` exists and ``overwrite`` is false, or it is a file.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{path}: is a file; choose another --output")
    if path.exists() and not overwrite:
        raise UserError(f"{path}: already exists; choose another --output or pass --overwrite")
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    try:
        yield staging
        replace_folder(staging, path)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def check_output(output: Path, inputs: Sequence[Path], overwrite: bool) -> None:
    """Refuse an output folder that exists, or that is or holds an input of the command (``--overwrite`` deletes it).

    Raises:
        UserError: either of them.
    """
    for path in inputs:
        if output.resolve() in (path.resolve(), *path.resolve().parents):
            raise UserError(f"--output {output}: is, or holds, the input {path}; choose another folder")
    if output.exists() and not overwrite:
        raise UserError(f"{output}: already exists; choose another --output or pass --overwrite")


def replace_folder(staging: Path, path: Path) -> None:
    """Rename ``staging`` to ``path``; an existing one is moved away first and deleted last: no crash loses both."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(staging, path)
    sync_folder(path.parent)
    shutil.rmtree(old, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """Sync the names in ``folder`` to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    with atomic_file(path) as staging:
        staging.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, what: str, remedy: str) -> Any:
    """Read a JSON file that a command of this project wrote.

    Raises:
        UserError: the file is missing or not JSON; the sentence ends with ``remedy``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no {what} here; {remedy}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: damaged {what} ({error}); {remedy}") from None
