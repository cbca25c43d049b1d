"""A loss of power, made from the record of what a command did to its files.

The disk keeps what has been synced; of the rest, it keeps what the draw says:

- of a file, all that was written before its last sync; the bytes after it are gone, or are zeros;
- of the names in a folder (made, renamed, removed), all until the folder's last sync; of the later ones a first part.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.fault_matrix.harm import remove

Durable = dict[int, tuple[int, int]]
"""Inode of a file -> (bytes, time of the last write in ns) when it was synced."""


@dataclass(frozen=True)
class Event:
    """One line of the record; ``other`` is the first name of a rename, or what was synced."""

    kind: str
    kept: int
    path: Path
    other: str


def durable_files(folder: Path) -> Durable:
    """Return the files that are there now, as on the disk for good."""
    states = [path.stat() for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
    return {state.st_ino: (state.st_size, state.st_mtime_ns) for state in states}


def lose_power(folder: Path, record: Path, durable: Durable, draw: random.Random) -> list[str]:
    """Leave in ``folder`` what a loss of power may leave; returns what was lost, in words.

    Args:
        record: the folder that :func:`.shim.record` was given.
        durable: the files that were there before the command.
    """
    events = _read(record / "record")
    for event in events:
        if event.kind == "content":
            inode, size, written = map(int, event.other.split())
            durable[inode] = (size, written)
    lost = list(_lose_content(folder, durable, draw))
    undone = _chosen(events, draw)
    for number in sorted(undone, reverse=True):
        later = [each for n, each in enumerate(events) if n > number and n not in undone]
        lost += _undo(events[number], later, record / "kept")
    return lost


def _read(path: Path) -> list[Event]:
    fields = [line.split("|") for line in path.read_text().splitlines()]
    return [
        Event(
            kind, int(kept), Path(os.path.normpath(name)), os.path.normpath(other) if other.startswith("/") else other
        )
        for kind, kept, name, other in fields
    ]


def _lose_content(folder: Path, durable: Durable, draw: random.Random) -> Iterator[str]:
    for path in sorted(folder.rglob("*")):
        if not path.is_file() or path.is_symlink():
            continue
        state = path.stat()
        size, written = durable.get(state.st_ino, (0, 0))
        if (size, written) == (state.st_size, state.st_mtime_ns):
            continue
        safe = min(size, state.st_size)
        kept = draw.randint(safe, state.st_size)
        zeros = draw.choice((0, state.st_size - kept))
        with path.open("r+b") as file:
            file.truncate(kept)
            file.truncate(kept + zeros)
        if kept < state.st_size:
            yield f"{path.name}: {state.st_size - kept} bytes {'are zeros' if zeros else 'gone'}"


def _chosen(events: list[Event], draw: random.Random) -> set[int]:
    """Return the events that are undone: in each folder those from some point after its last sync on."""
    of_folder: dict[Path, list[int]] = {}
    for number, event in enumerate(events):
        if event.kind == "names":
            of_folder[event.path] = []
        elif event.kind != "content":
            of_folder.setdefault(event.path.parent, []).append(number)
    return {number for numbers in of_folder.values() for number in numbers[draw.randint(0, len(numbers)) :]}


def _undo(event: Event, later: list[Event], kept: Path) -> Iterator[str]:
    if any(each.kind == "renamed" and each.other == str(event.path) for each in later):
        return  # it has got another name since, and that one is on the disk
    path, other = _now(event.path, later), _now(Path(event.other), later) if event.other else None
    if not path.parent.is_dir():
        return
    if event.kind in ("made", "folder"):
        remove(path)
    elif event.kind == "emptied":
        path.mkdir(exist_ok=True)
    elif event.kind == "swapped" and other is not None and other.exists() and path.exists():
        aside = path.with_name(f"{path.name}.swap")
        path.rename(aside)
        other.rename(path)
        aside.rename(other)
    elif event.kind == "renamed" and other is not None and path.exists() and other.parent.is_dir():
        if other.exists():
            remove(other)
        path.rename(other)
    if event.kind in ("renamed", "removed") and event.kept and not path.exists():
        os.link(kept / str(event.kept), path)
    yield f"{event.kind} {path.name}"


def _now(path: Path, later: list[Event]) -> Path:
    """Return what ``path`` is called after renames of folders above it, or of itself, that were not undone."""
    for event in later:
        if event.kind == "renamed" and event.other and path.is_relative_to(event.other):
            path = event.path / path.relative_to(event.other)
        elif event.kind == "swapped":
            one, two = event.path, Path(event.other)
            if path.is_relative_to(one):
                path = two / path.relative_to(one)
            elif path.is_relative_to(two):
                path = one / path.relative_to(two)
    return path


def forget(record: Path) -> None:
    """Remove a record and what it kept."""
    shutil.rmtree(record, ignore_errors=True)
