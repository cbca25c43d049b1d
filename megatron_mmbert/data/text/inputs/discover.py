"""A corpus's files and their languages, as downloaded: FineWeb2 and its kind, HPLT, Wikipedia, a folder of one's own.

A language comes from an argument, a field of each line, or from the names in a file's path: the file's own
(``fao_Latn.jsonl``) or a folder's (``fao_Latn/train/000_00000.parquet``). A name that is no code is never a language
unless the user says so.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from megatron_mmbert.data.text.formats import format_of
from megatron_mmbert.data.text.inputs.codes import (
    aliases,
    check_spellings,
    code_of_folder,
    has_script,
)
from megatron_mmbert.data.text.inputs.folder_walk import FoundFile, FoundFiles, shown, walk
from megatron_mmbert.data.text.inputs.languages import FOLDER, LanguageFrom, Named, name_languages
from megatron_mmbert.data.text.inputs.splits import split_of, split_of_folder
from megatron_mmbert.data.text.records import MAX_LINE_BYTES, Fields, InputFile
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.names import is_name


@dataclass(frozen=True)
class InputOptions:
    """The user's word on a corpus.

    Attributes:
        fields: what is taken from each record; its ``language`` None: by file.
        language: of all documents; None: as found.
        language_from: take any name as a language, of the file or of its folder; None: only a code, of either.
        splits: parts to take; None: the one that all given folders are named by, else ``train``.
        max_line_bytes: a longer line is a bad one.
    """

    fields: Fields = field(default_factory=Fields)
    language: str | None = None
    language_from: LanguageFrom | None = None
    splits: tuple[str, ...] | None = None
    max_line_bytes: int = MAX_LINE_BYTES

    def __post_init__(self) -> None:
        if self.language is not None and not is_name(self.language):
            raise UserError(f"--language {self.language!r}: give a name of printable characters without spaces")
        given = [
            flag
            for flag, value in (
                ("--language", self.language),
                ("--language-field", self.fields.language),
                ("--language-from", self.language_from),
            )
            if value is not None
        ]
        if len(given) > 1:
            raise UserError(f"{given[0]} and {given[1]} exclude each other; give one of them")


AS_FOUND = InputOptions()
"""Nothing said: text in ``text``, languages by paths."""


class Inputs(NamedTuple):
    """The files of a corpus, sorted by path; ``notes``: sentences on what is read, and on what is not."""

    files: list[InputFile]
    notes: list[str]
    warnings: list[str]

    def announce(self) -> None:
        """Print the notes, and the warnings on stderr: a command's start says what it reads."""
        print_notes(self.notes)
        print_warnings(self.warnings)


class SplitFiles(NamedTuple):
    """The files of the wanted splits, those of others, and sentences on what is not read."""

    taken: list[FoundFile]
    left: list[FoundFile]
    found: FoundFiles
    notes: list[str]


def find_files(
    paths: Iterable[Path | str], splits: tuple[str, ...] | None = None, without: Path | None = None
) -> SplitFiles:
    """Return the files below ``paths`` by whether they are of ``splits``, sorted; nothing of the folder ``without``.

    A file that is named itself is always taken.

    Raises:
        UserError: a path is missing, cannot be read or gives no file; one text is there in two forms.
    """
    named = [Path(path) for path in paths]
    found = walk(named, without)
    files = divide(named, found.files, splits)
    _check_forms(files.taken)
    return SplitFiles(files.taken, files.left, found, files.notes + not_read(found))


class Divided(NamedTuple):
    """The files of the wanted splits, those of others, and the sentence on these."""

    taken: list[FoundFile]
    left: list[FoundFile]
    notes: list[str]


def divide(named: Sequence[Path], files: Iterable[FoundFile], splits: tuple[str, ...] | None) -> Divided:
    """Divide the files below the paths ``named`` by whether they are of ``splits``.

    Raises:
        UserError: none is.
    """
    own = {split_of_folder(path.absolute().name) for path in named if path.is_dir()}
    # Folders that are all named by one split are asked for by their names.
    count_given = splits is not None or len(own) > 1
    wanted = splits or ("train",)
    left: Counter[str] = Counter()
    sides: tuple[list[FoundFile], list[FoundFile]] = ([], [])
    for file in files:
        split = split_of(file, count_given)
        is_left = bool(file.folders) and split not in wanted
        sides[is_left].append(file)
        left[split] += is_left
    if not sides[0]:
        split, count = max(left.items(), key=lambda item: item[1])
        raise UserError(
            f"{shown(named[0])}: no file of {_either(wanted)}, but {count:,} of {split}; pass --split {split}"
        )
    notes = []
    if +left:
        counts = ", ".join(f"{counted(count, 'file')} of {split}" for split, count in sorted((+left).items()))
        notes.append(f"left out: {counts}; --split takes them")
    return Divided(*sides, notes)


def discover(paths: Iterable[Path | str], options: InputOptions, without: Path | None = None) -> Inputs:
    """Return the files below ``paths`` with their languages, and nothing of the folder ``without``.

    Raises:
        UserError: as :func:`find_files`; a file whose language is not clear; a language in two spellings.
    """
    files = find_files(paths, options.splits, without)
    if options.language or options.fields.language:
        named = [Named(options.language, "")] * len(files.taken)
        said = f"--language {options.language}" if options.language else f"field {options.fields.language!r}"
        notes, warnings = [f"{counted(len(named), 'file')}, language from {said}"], []
    else:
        named = name_languages(files.taken, options.language_from)
        languages = [name.language for name in named if name.language is not None]
        _check_languages(languages, files, options.language_from)
        # Files that bear their languages' names are no news.
        news = any(name.origin == FOLDER for name in named)
        notes, warnings = [origins(named)] if news else [], aliases(set(languages))
    inputs = [
        InputFile(file.path, name.language, options.fields, options.max_line_bytes)
        for file, name in zip(files.taken, named, strict=True)
    ]
    return Inputs(inputs, notes + files.notes, warnings)


def print_notes(notes: Iterable[str]) -> None:
    """Print sentences on a corpus, at once."""
    for note in notes:
        print(note, flush=True)


def print_warnings(warnings: Iterable[str]) -> None:
    """Print warnings on stderr."""
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)


def _check_forms(files: Iterable[FoundFile]) -> None:
    """Refuse a text that lies there packed and unpacked."""
    seen: dict[tuple[Path, str, int], Path] = {}
    for path, _ in files:
        endings = format_of(path).endings
        ending = max((ending for ending in endings if path.name.lower().endswith(ending)), key=len)
        other = seen.setdefault((path.parent, path.name[: -len(ending)], id(endings)), path)
        if other != path:
            raise UserError(f"{shown(other)}: {path.name} beside it is the same text again; take one of them away")


def not_read(found: FoundFiles) -> list[str]:
    """Return the sentence on files of other kinds, if there are any."""
    if not +found.not_read:
        return []
    by_count = sorted((+found.not_read).items(), key=lambda item: -item[1])
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in by_count)
    return [f"not read: {counted(sum(found.not_read.values()), 'file')} ({kinds})"]


def _check_languages(languages: list[str], files: SplitFiles, language_from: str | None) -> None:
    """Refuse one language in two spellings, and a language whose folder is empty."""
    check_spellings(languages)
    if language_from is not None:
        return
    for folder in sorted(files.found.empty):
        code = code_of_folder(folder.name) or (code_of_folder(folder.parent.name) if folder.name == "train" else None)
        if code is not None and has_script(code) and code not in languages and not folder.name.endswith("_removed"):
            raise UserError(f"{shown(folder)}: nothing in this folder of {code}; download it again or remove it")


def origins(named: list[Named]) -> str:
    """Return the sentence on the languages and where they come from."""
    by_origin: dict[str, set[str | None]] = {}
    for language, origin in named:
        by_origin.setdefault(origin, set()).add(language)
    origins = " and ".join(f"{counted(len(names), 'language')} from {origin}" for origin, names in by_origin.items())
    return f"{origins} ({counted(len(named), 'file')})"


def counted(number: int, what: str) -> str:
    """Return a number with a noun, which takes an s for more than one."""
    return f"{number:,} {what}{'s' if number != 1 else ''}"


def _either(splits: Sequence[str]) -> str:
    return " or ".join(splits)
