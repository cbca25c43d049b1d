"""Small files written whole or not at all, and JSON; what commands write at ``--output`` is in :mod:`.outputs`."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import UserError


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; on success it replaces ``path``, on an exception it is removed."""
    make_folders(path.parent)
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield staging
        sync(staging)
        os.replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise
    sync_name(path)


def replace_folder(staging: Path, path: Path) -> None:
    """Rename ``staging`` to ``path``; an existing one is moved away first and deleted last: no crash loses both."""
    for folder in (staging, *(entry for entry in staging.rglob("*") if entry.is_dir())):
        sync(folder)
    old = path.with_name(f".{path.name}.old")
    remove_folder(old)
    if path.exists():
        os.replace(path, old)
    os.replace(staging, path)
    sync_name(path)
    remove_folder(old)


def remove_folder(path: Path) -> None:
    """Remove a folder as far as it can be; what a passing error left (a signal, no more open files), a second time."""
    for _ in range(2):
        shutil.rmtree(path, ignore_errors=True)
        if not path.exists():
            return


def sync(path: Path) -> None:
    """Sync a file's content, or the names in a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_name(path: Path) -> None:
    """Sync that ``path`` has its name; an error is none of what lies there whole by now, and is not raised."""
    with suppress(OSError):
        sync(path.parent)


def make_folders(folder: Path) -> list[Path]:
    """Make ``folder`` and those above it, on the disk too; returns the new ones, outermost first."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()][::-1]
    try:
        for each in missing:
            each.mkdir(exist_ok=True)
            sync_name(each)
    except BaseException:
        remove_empty(missing)
        raise
    return missing


def remove_empty(folders: Sequence[Path]) -> None:
    """Remove ``folders``, outermost first, as far as they are there and nothing has come to lie in them."""
    for each in reversed(folders):
        try:
            each.rmdir()
        except FileNotFoundError:
            continue
        except OSError:
            break


def to_json(value: Any, **options: Any) -> str:
    """Return ``value`` as JSON, by the ``options`` of ``json.dumps``.

    Raises:
        UserError: a number in it is NaN or infinite, which JSON cannot say.
    """
    try:
        return json.dumps(value, allow_nan=False, **options)
    except ValueError:
        raise UserError("a number to write is not finite (NaN or infinity), which JSON cannot say") from None


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON, atomically."""
    with atomic_file(path) as staging:
        put_json(staging, value)


def put_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented UTF-8 JSON into ``path`` itself: for a staging file that is locked."""
    path.write_text(to_json(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_json(path: Path, what: str, remedy: str) -> Any:
    """Read a JSON file that a command of this project wrote.

    Raises:
        UserError: the file is missing or not JSON; the sentence ends with ``remedy``.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no {what} here; {remedy}") from None
    except (ValueError, RecursionError) as error:  # also bytes that are no text, and a number of thousands of digits
        raise UserError(f"{path}: damaged {what} ({error}); {remedy}") from None
