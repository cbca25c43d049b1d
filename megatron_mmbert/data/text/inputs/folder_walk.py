"""Walking through folders: every file once, links to folders followed, nothing passed over without being counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from megatron_mmbert.data.text.formats import described_endings, is_readable
from megatron_mmbert.data.text.line_reader import COMPRESSIONS
from megatron_mmbert.utils.errors import UserError


class FileKind(NamedTuple):
    """A kind of files: whether a file is one by its name, and what such names are, for messages."""

    has: Callable[[str], bool]
    described: str


TEXT = FileKind(is_readable, described_endings())


class FoundFile(NamedTuple):
    """A file of a known kind; ``folders``: the names of the folders that it was found in, the given one's first."""

    path: Path
    folders: tuple[str, ...]


@dataclass
class FoundFiles:
    """The files below the given paths.

    Attributes:
        files: those of a known kind.
        not_read: the count of the others, by what they are.
        empty: folders with nothing in them.
        met: how often a file of a known kind was met, each path counted.
        kind: the files that are looked for.
    """

    kind: FileKind = TEXT
    files: list[FoundFile] = field(default_factory=list)
    not_read: Counter[str] = field(default_factory=Counter)
    empty: list[Path] = field(default_factory=list)
    met: int = 0
    _seen: set[str] = field(default_factory=set)

    def add(self, path: Path) -> None:
        """Add a file, or a folder with all below it; what was reached before by another path is not added again.

        Raises:
            UserError: nothing is there, it cannot be read, or its name cannot be printed.
        """
        if path.is_dir():
            self._add_folder(path, (path.absolute().name,))
        elif not path.exists():
            raise UserError(f"{shown(path)}: {_missing(path)}; check --input")
        else:
            if not self.kind.has(path.name):
                raise UserError(f"{path}: unknown kind of file; convert it to one of {self.kind.described}")
            if not path.is_file():
                raise UserError(
                    f"{shown(path)}: neither a file nor a folder (a pipe, a device?); write it to a file first"
                )
            self._add_file(path, (), os.path.realpath(path))

    def knows(self, path: Path) -> bool:
        """Tell if a file or a folder was reached before."""
        return os.path.realpath(path) in self._seen

    def pass_over(self, folder: Path) -> None:
        """Take nothing of ``folder``."""
        self._seen.add(os.path.realpath(folder))

    def _add_folder(self, top: Path, names: tuple[str, ...]) -> None:
        waiting = [(top, names)]
        linked: list[tuple[Path, tuple[str, ...]]] = []
        while waiting or linked:
            # Folders by their own names first: a link to one of them gives it no other.
            path, names = waiting.pop() if waiting else linked.pop(0)
            real = os.path.realpath(path)
            if real in self._seen:
                self.not_read["second path to a folder"] += 1
                continue
            self._seen.add(real)
            for entry in self._entries(path):
                child = path / entry.name
                if entry.is_symlink():
                    self._add_link(child, names, linked)
                elif entry.is_dir(follow_symlinks=False):
                    waiting.append((child, (*names, entry.name)))
                elif entry.is_file(follow_symlinks=False):
                    self._add_file(child, names, os.path.join(real, entry.name))
                else:
                    self.not_read["pipe or device"] += 1

    def _entries(self, folder: Path) -> list[os.DirEntry[str]]:
        try:
            with os.scandir(folder) as entries:
                every = list(entries)
        except OSError as error:
            raise UserError(
                f"{shown(folder)}: cannot be read ({error.strerror}); make it readable or move it"
            ) from None
        if not every:
            self.empty.append(folder)
        visible = [entry for entry in every if not entry.name.startswith(".")]
        self.not_read["hidden"] += sum(self.kind.has(entry.name) for entry in every if entry.name.startswith("."))
        return sorted(visible, key=lambda entry: (entry.is_symlink(), entry.name))

    def _add_link(self, path: Path, names: tuple[str, ...], linked: list[tuple[Path, tuple[str, ...]]]) -> None:
        if path.is_dir():
            linked.append((path, (*names, path.name)))
        elif path.is_file():
            self._add_file(path, names, os.path.realpath(path))
        elif path.exists():
            self.not_read["pipe or device"] += 1
        elif self.kind.has(path.name):
            raise UserError(f"{shown(path)}: {_missing(path)}; make the link again or remove it")
        else:
            self.not_read["broken link"] += 1

    def _add_file(self, path: Path, names: tuple[str, ...], real: str) -> None:
        if not self.kind.has(path.name):
            self.not_read[_ending(path)] += 1
            return
        self.met += 1
        if real in self._seen:
            self.not_read["second path to a file"] += 1
            return
        self._seen.add(real)
        if not all(map(str.isprintable, (*names, path.name))):
            raise UserError(f"{shown(path)}: a name with characters that cannot be printed; rename it")
        self.files.append(FoundFile(path, names))


def walk(paths: Iterable[Path | str], without: Path | None = None, kind: FileKind = TEXT) -> FoundFiles:
    """Return the files below ``paths``, each once, sorted; nothing of the folder ``without``.

    Raises:
        UserError: a path is missing or cannot be read, or a folder holds no file of a known kind.
    """
    found = FoundFiles(kind)
    if without is not None:
        found.pass_over(without)
    for path in map(Path, paths):
        known, before = found.knows(path), found.met
        found.add(path)
        if not known and found.met == before:
            raise UserError(f"{shown(path)}: no file in this folder is one of {kind.described}; check --input")
    found.files.sort()
    return found


def shown(path: Path) -> str:
    """Return a path as one line of text, whatever its name has in it."""
    return str(path) if str(path).isprintable() else ascii(str(path))


def _missing(path: Path) -> str:
    return "a link to nothing, or to itself" if path.is_symlink() else "no such file or folder"


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if not suffixes:
        return "without ending"
    return "".join(suffixes[-2:]) if suffixes[-1] in COMPRESSIONS else suffixes[-1]
