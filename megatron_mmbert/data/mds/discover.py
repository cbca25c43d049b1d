"""The MDS shards below some folders, each once, with source and language by the names of the folders around it.

mmBERT's data lies as ``SOURCE/SHARD_FOLDER/shard.00000.mds``, or with a folder for each language between the two; an
``index.json`` is in every shard folder, and a merged one above all.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Hashable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from megatron_mmbert.data.mds.index import COMPRESSIONS, INDEX_NAME, ShardEntry, read_index
from megatron_mmbert.data.mds.shard import ShardFile
from megatron_mmbert.data.text.inputs.codes import aliases, check_spellings, code_of_file, code_of_folder, has_script
from megatron_mmbert.data.text.inputs.discover import counted, divide, not_read, origins
from megatron_mmbert.data.text.inputs.folder_walk import FileKind, FoundFile, shown, walk
from megatron_mmbert.data.text.inputs.languages import FOLDER, Named, name_languages
from megatron_mmbert.data.text.inputs.splits import is_split
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.names import is_name

_ENDINGS = (".mds", *(f".mds.{name}" for name in (*COMPRESSIONS, "br", "snappy")))
_MDS = FileKind(lambda name: name == INDEX_NAME or name.endswith(_ENDINGS), f"{INDEX_NAME} and the shards it lists")
_REMEDY = "pass --language CODE, or --language-of SOURCE=CODE for those of one source"
_MADE_BY = re.compile(r"-(?:tokenized|sampled)(?:-.*)?$")
_SHARD_FOLDER = re.compile(r"(?:(?:split|shard|part|chunk|batch|file|data)s?[-_]?)?\d[\d_-]*(?:of[-_]?\d+)?", re.ASCII)


class Naming(NamedTuple):
    """The user's word on sources and languages.

    Attributes:
        source: of everything; None: the folder above the language's, or above the shards'.
        language: of everything; None: the code in a folder's name.
        language_of: pairs of a source (``*`` stands for any letters) and its language.
    """

    source: str | None = None
    language: str | None = None
    language_of: tuple[tuple[str, str], ...] = ()


AS_FOUND = Naming()
"""Nothing said."""


class FoundShard(NamedTuple):
    """A shard, and its dataset ``SOURCE/LANGUAGE``."""

    file: ShardFile
    dataset: str


class FoundShards(NamedTuple):
    """The shards in the store's order; sentences on what is read and on what is not, and warnings."""

    shards: list[FoundShard]
    notes: list[str]
    warnings: list[str]


def find_shards(
    inputs: Sequence[Path], naming: Naming, splits: tuple[str, ...] | None, without: Path | None = None
) -> FoundShards:
    """Return the shards below ``inputs``, and nothing of the folder ``without``.

    Raises:
        UserError: a folder without an index, an index that is damaged, a shard that is missing or in no index, a source
            or language that is not clear.
    """
    for path in inputs:
        if path.is_file() and path.name != INDEX_NAME:
            raise UserError(f"{shown(path)}: not an {INDEX_NAME}; give the folder that it lies in")
    found = walk(inputs, without, _MDS)
    listed = _Listed([file for file in found.files if file.path.name == INDEX_NAME])
    files = sorted(listed.files.values(), key=lambda each: each[0])
    unlisted = [file.path for file in found.files if os.path.realpath(file.path) not in listed.known]
    if unlisted or not files:
        path = unlisted[0] if unlisted else inputs[0]
        more = f" (and {len(unlisted) - 1:,} more shards)" if unlisted[1:] else ""
        raise UserError(f"{shown(path)}{more}: in no {INDEX_NAME}; download that of its folder again, or move it away")
    divided = divide(list(inputs), [file for file, _ in files], splits)
    taken = set(divided.taken)
    chosen = [(file, entry) for file, entry in files if file in taken]
    languages = _languages([file for file, _ in chosen], naming)
    sources = [_source(file, name.language or "", naming) for (file, _), name in zip(chosen, languages, strict=True)]
    _check_named(naming, sources)
    check_spellings({name.language or "" for name in languages})
    shards = [
        FoundShard(_on_disk(file.path, entry), f"{source}/{name.language}")
        for (file, entry), source, name in zip(chosen, sources, languages, strict=True)
    ]
    shards.sort(key=lambda shard: (shard.dataset.split("/"), shard.file.path))
    note = f"{counted(len(set(sources)), 'source')}, {origins(languages)}"
    return FoundShards(
        shards, [note, *divided.notes, *not_read(found)], aliases({name.language or "" for name in languages})
    )


class _Listed:
    """The shards of all indexes, each once: ``files`` by the real path of the unpacked one."""

    def __init__(self, indexes: Sequence[FoundFile]) -> None:
        """Read the indexes.

        Raises:
            UserError: one is damaged, says of a shard what another does not, or lists more than is here.
        """
        self.files: dict[str, tuple[FoundFile, ShardEntry]] = {}
        self.known: set[str] = set()
        """The real paths of all files that an index lists, and of the indexes."""
        elsewhere = [(index, entries) for index in indexes if (entries := self._add(index))]
        for index, entries in elsewhere:
            # MosaicML's merge_index keeps of several folders the last one's name, so that entries are told by content.
            folder = os.path.join(os.path.realpath(index.path.parent), "")
            here = Counter(_content(entry) for path, (_, entry) in self.files.items() if path.startswith(folder))
            missing = Counter(map(_content, entries)) - here
            if missing:
                lists, lacks = counted(len(entries), "shard"), sum(missing.values())
                raise UserError(
                    f"{shown(index.path)}: lists {lists} in folders below it, and {lacks:,} are missing; download "
                    "them, or give the folders that are here as --input"
                )

    def _add(self, index: FoundFile) -> list[ShardEntry]:
        """Add the shards of an index; returns those of folders below it that are not where it says."""
        folders = index.folders or (index.path.absolute().parent.name,)
        real = os.path.realpath(index.path.parent)
        self.known.add(os.path.realpath(index.path))
        elsewhere = []
        for entry in read_index(index.path):
            names = [each.name for each in (entry.raw, entry.packed) if each is not None]
            paths = [os.path.join(real, name) for name in names]
            below = PurePosixPath(entry.raw.name).parent.parts
            if below and not any(map(os.path.exists, paths)):
                elsewhere.append(entry)
                continue
            self.known.update(map(os.path.realpath, paths))
            file = FoundFile(index.path.parent / entry.raw.name, (*folders, *below))
            _, other = self.files.setdefault(paths[0], (file, entry))
            if _content(other) != _content(entry):
                raise UserError(
                    f"{shown(index.path)}: says of {entry.raw.name} what another {INDEX_NAME} does not; download both "
                    "again"
                )
        return elsewhere


def _content(entry: ShardEntry) -> tuple[Hashable, ...]:
    """Return what two indexes say alike of a shard: all but the folders in its names."""
    files = [(each.bytes, *sorted(each.hashes.items())) for each in (entry.raw, entry.packed) if each is not None]
    return (entry.columns, entry.samples, entry.compression, *files)


def _on_disk(raw: Path, entry: ShardEntry) -> ShardFile:
    """Return the file of a shard that is there, the unpacked one before the packed one.

    Raises:
        UserError: neither is.
    """
    if raw.is_file():
        return ShardFile(raw, entry, is_packed=False)
    if entry.packed is not None:
        packed = raw.with_name(PurePosixPath(entry.packed.name).name)
        if packed.is_file():
            return ShardFile(packed, entry, is_packed=True)
        raw = packed
    raise UserError(f"{shown(raw)}: missing; download it again, or name the folders that are whole as --input")


def _languages(files: Sequence[FoundFile], naming: Naming) -> list[Named]:
    """Return the language of each file.

    Raises:
        UserError: one is not clear.
    """
    named: dict[int, Named] = {}
    for number, file in enumerate(files):
        language = naming.language
        if language is None and naming.language_of:
            source = _source(file, "", naming)
            language = next((code for name, code in naming.language_of if fnmatchcase(source, name)), None)
        if language is not None:
            named[number] = Named(language, "what was said")
    rest = [number for number in range(len(files)) if number not in named]
    found = name_languages([_plain(files[number]) for number in rest], None, _REMEDY)
    named |= dict(zip(rest, found, strict=True))
    return [named[number]._replace(origin=named[number].origin or FOLDER) for number in range(len(files))]


def _check_named(naming: Naming, sources: Sequence[str]) -> None:
    """Check that each source with a language of its own is there: a slip of the pen would leave it to its folder's.

    Raises:
        UserError: one is not.
    """
    for pattern, code in naming.language_of:
        if not any(fnmatchcase(source, pattern) for source in sources):
            there = ", ".join(sorted(set(sources)))[:200]
            raise UserError(f"--language-of {pattern}={code}: no such source in --input; there are {there}")


def _plain(file: FoundFile) -> FoundFile:
    """Return the index beside a file, the names of shards say nothing; folders without what made their content."""
    return FoundFile(file.path.with_name(INDEX_NAME), tuple(map(_plain_name, file.folders)))


def _plain_name(folder: str) -> str:
    """Return a folder's name without what tokenizing and sampling appended, and without a number after a code."""
    name = _MADE_BY.sub("", folder)
    code = code_of_file(name)
    return code if code is not None and has_script(code) else name


def _source(file: FoundFile, language: str, naming: Naming) -> str:
    """Return the source of a file: the folder above that of its language, or above those of shards.

    Raises:
        UserError: no folder can name it.
    """
    if naming.source is not None:
        return naming.source
    folders = list(reversed(file.folders))
    outside = list(reversed(file.path.absolute().parent.parts))[len(folders) :]
    with_code = [
        place for place, name in enumerate(folders) if language and code_of_folder(_plain_name(name)) == language
    ]
    inner = folders[with_code[-1] + 1 :] if with_code else folders
    for name in [*inner, *outside]:
        is_shards = _SHARD_FOLDER.fullmatch(_plain_name(name)) is not None
        if is_name(name) and not is_split(name) and not is_shards:
            return name
    raise UserError(f"{shown(file.path)}: no folder around it names its source; pass --source NAME")
