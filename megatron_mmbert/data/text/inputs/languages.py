"""The language that a file's path names: by a code in it, or by the name that the user says is one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from megatron_mmbert.data.text.inputs.codes import (
    SOURCE_CODE,
    code_of_file,
    code_of_folder,
    has_script,
    same_language,
)
from megatron_mmbert.data.text.inputs.folder_walk import FoundFile, shown
from megatron_mmbert.data.text.inputs.splits import is_split
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.names import is_name

LanguageFrom = Literal["folder", "file"]
FILE, FOLDER = "file names", "folder names"

_REMEDY = (
    "pass --language CODE (`code` for source code), --language-field FIELD, or, if the names are languages, "
    "--language-from folder or file"
)


class Named(NamedTuple):
    """A language (None: each line has its own), and the kind of names that it comes from."""

    language: str | None
    origin: str


def name_languages(
    files: Iterable[FoundFile], language_from: LanguageFrom | None, remedy: str = _REMEDY
) -> list[Named]:
    """Return the language of each file: the code in its path, or the name that ``language_from`` says is one.

    Raises:
        UserError: a path has no code, or two.
    """
    named: list[Named] = []
    problems: list[str] = []
    for file in files:
        found = _by_code(file) if language_from is None else _by_word(file, language_from)
        if isinstance(found, str):
            problems.append(found)
        else:
            named.append(found)
    if problems:
        more = f" (and {len(problems) - 1:,} more files)" if problems[1:] else ""
        raise UserError(f"{problems[0]}{more}; {remedy}")
    return named


def _by_code(file: FoundFile) -> Named | str:
    """Return the language whose code is in the path, or the reason why there is none."""
    in_name = code_of_file(file.path.name)
    in_folders = [code for code in map(code_of_folder, _folders(file)) if code is not None]
    if SOURCE_CODE in in_folders:
        return Named(SOURCE_CODE, FOLDER)
    # A word may be a code by chance, one with a script is not.
    folders = list(dict.fromkeys(filter(has_script, in_folders))) or list(dict.fromkeys(in_folders))
    if in_name is not None and not has_script(in_name) and folders and has_script(folders[0]):
        if same_language(in_name, folders[0]):
            in_name = None
    elif in_name is not None and has_script(in_name):
        folders = list(filter(has_script, folders))
    codes = list(dict.fromkeys([*([in_name] if in_name else []), *folders]))
    if len(codes) > 1:
        return f"{shown(file.path)}: may be {codes[0]!r} or {codes[1]!r} by its path"
    if not codes:
        return f"{shown(file.path)}: no language in its path, neither its name nor a folder is a code like fao_Latn"
    return Named(codes[0], FOLDER if in_name is None else FILE)


def _folders(file: FoundFile) -> list[str]:
    """Return the folders that may name the language, from the inside: those found in, and what a split lies in."""
    names = list(reversed(file.folders))
    for name in list(reversed(file.path.absolute().parent.parts))[len(names) :]:
        if names and not is_split(names[-1]):
            break
        # Outside what the user named, only what cannot be chance.
        names.append(name if is_split(name) or has_script(name.removesuffix("_removed")) else "")
    return names


def _by_word(file: FoundFile, language_from: LanguageFrom) -> Named | str:
    """Return the language by the file's name, or by the folder that it lies in, splits passed over."""
    if language_from == "file":
        language = code_of_file(file.path.name) or file.path.name.split(".", 1)[0]
    else:
        folders = list(reversed(file.path.absolute().parent.parts))
        name = next((name for name in folders if not is_split(name)), "")
        language = code_of_folder(name) or name
    if not is_name(language):
        return f"{shown(file.path)}: its {language_from} gives no language, {language!r} is empty or has spaces"
    return Named(language, FILE if language_from == "file" else FOLDER)
