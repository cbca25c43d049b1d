"""Setting held-out text aside, for languages of any size.

A language with enough documents gives whole ones, chosen by a hash of their ids: adding documents moves no other.
A smaller one (hundreds of languages have a single document) gives the last lines of its longest document: better
held-out text from a document whose beginning is trained on than none at all, but mind that when comparing languages.

A language is read twice, once to choose and once to write, and no more of it than one document is in memory. Where each
line names its language, the documents are first written to a file for each.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from bisect import bisect_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import accumulate
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import NamedTuple, TextIO

from megatron_mmbert.data.text.documents import read_file
from megatron_mmbert.data.text.inputs.codes import aliases, check_spellings
from megatron_mmbert.data.text.inputs.discover import AS_FOUND, InputOptions, discover, print_warnings
from megatron_mmbert.data.text.inputs.folder_walk import shown
from megatron_mmbert.data.text.records import Document, InputFile, SkippedLines
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import remove_folder, to_json, write_json
from megatron_mmbert.utils.output_kinds import HELD_OUT_SPLIT
from megatron_mmbert.utils.outputs import check_output, output_folder
from megatron_mmbert.utils.progress import ByteProgress

SKIPPED_NAME = "skipped.jsonl"
SIDES = ("train", "heldout")
_MIN_DOCUMENTS = 10
_MIN_LINES = 4
_BUCKET_BITS = 16
_KEY_BITS = 64
_IN_MEMORY_BYTES = 8 << 20
_PAIRS_AT_ONCE = 1 << 15
_OPEN_FILES = 100
_SORTED = ".documents"
_Languages = dict[str, Callable[[], Iterator[Document]]]
"""What reads the documents of each language, anew at every call."""


class HeldOut(NamedTuple):
    """The choice for one language.

    Attributes:
        documents: of the language.
        wanted: bytes to hold out.
        key: documents of lower keys are held out.
        of_key: of the documents of this very key, those that begin within so many bytes of them.
        longest: the index of the longest document.
    """

    documents: int
    wanted: float
    key: int
    of_key: float
    longest: int


def choose(documents: Iterable[Document], share: float, max_bytes: int) -> HeldOut:
    """Choose about ``share`` of the documents' bytes, at most ``max_bytes``, by the order of their keys."""
    buckets = array("q", bytes(8 << _BUCKET_BITS))
    count = total = longest = largest = 0
    with SpooledTemporaryFile(_IN_MEMORY_BYTES) as pairs:
        buffer = array("Q")
        for document in documents:
            key, size = _order_key(document.id), _bytes(document.text)
            buckets[key >> (_KEY_BITS - _BUCKET_BITS)] += size
            buffer.extend((key, size))
            if len(buffer) >= 2 * _PAIRS_AT_ONCE:
                pairs.write(buffer.tobytes())
                del buffer[:]
            if size > largest:
                longest, largest = count, size
            count, total = count + 1, total + size
        pairs.write(buffer.tobytes())
        wanted = min(share * total, max_bytes)
        key, of_key = _cut(buckets, pairs, wanted)
    return HeldOut(count, wanted, key, of_key, longest)


def divide(documents: Iterable[Document], chosen: HeldOut) -> Iterator[tuple[str, str, str]]:
    """Yield (side, id, text) of the documents that ``chosen`` was made of.

    Raises:
        UserError: they are others.
    """
    of_key: float = 0
    count = 0
    for count, document in enumerate(documents, start=1):
        if chosen.documents < _MIN_DOCUMENTS:
            wanted = chosen.wanted if count - 1 == chosen.longest else 0
            yield from _with_copies(document, _divide_lines(document, wanted))
            continue
        key = _order_key(document.id)
        is_held = key < chosen.key or (key == chosen.key and of_key < chosen.of_key)
        of_key += _bytes(document.text) if key == chosen.key else 0
        yield from _with_copies(document, [(SIDES[is_held], document.id, document.text)])
    if count != chosen.documents:
        raise UserError("the input changed while it was read; run the command again")


def _with_copies(document: Document, parts: Iterable[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yield what is trained on as often as the document is to be taken, and what is held out once."""
    for part in parts:
        yield from [part] * (document.copies if part[0] == SIDES[0] else 1)


def _cut(buckets: array[int], pairs: SpooledTemporaryFile[bytes], wanted: float) -> tuple[int, float]:
    """Return the key at which the documents before it, in the order of keys, have ``wanted`` bytes, and what is left.

    ``buckets`` holds the bytes by the first bits of keys, ``pairs`` the key and bytes of each document.
    """
    ends = list(accumulate(buckets))
    bucket = bisect_left(ends, wanted)
    before = ends[bucket - 1] if bucket else 0
    of_key: Counter[int] = Counter()
    pairs.seek(0)
    while block := pairs.read(16 * _PAIRS_AT_ONCE):
        numbers = array("Q", block)
        for key, size in zip(numbers[::2], numbers[1::2], strict=True):
            if key >> (_KEY_BITS - _BUCKET_BITS) == bucket:
                of_key[key] += size
    for key in sorted(of_key):
        if before + of_key[key] >= wanted:
            return key, wanted - before
        before += of_key[key]
    return 0, 0  # nothing is wanted


def _divide_lines(document: Document, wanted: float) -> Iterator[tuple[str, str, str]]:
    """Hold out about ``wanted`` bytes of whole lines at the end of a document, at most half of them."""
    lines = document.text.split("\n") if wanted else []
    if len(lines) < _MIN_LINES:
        yield "train", document.id, document.text
        return
    cut, taken = len(lines), 0
    while cut > len(lines) // 2 and taken < wanted:
        cut -= 1
        taken += _bytes(lines[cut])
    yield "train", document.id, "\n".join(lines[:cut]).rstrip()
    yield "heldout", f"{document.id}#end", "\n".join(lines[cut:]).strip()


def split_files(
    inputs: Iterable[Path],
    output: Path,
    share: float,
    max_bytes: int,
    overwrite: bool = False,
    options: InputOptions = AS_FOUND,
    skip_bad: bool = False,
) -> str:
    """Write ``output``/train and ``output``/heldout with one file per language; return a sentence on the result.

    Raises:
        UserError: bad input lines (unless they are to be skipped), a language that is not clear, or an ``output`` that
            exists.
    """
    if not 0 < share < 1:
        raise UserError(f"--share {share}: give a number between 0 and 1, such as 0.05")
    inputs = list(inputs)
    check_output(output, HELD_OUT_SPLIT, inputs, overwrite)
    found = discover(inputs, options)
    found.announce()
    counts = dict.fromkeys(SIDES, 0)
    without = 0
    skipped = SkippedLines()
    with (
        output_folder(output, HELD_OUT_SPLIT, inputs, overwrite) as staging,
        ByteProgress("splitting", 2 * sum(file.path.stat().st_size for file in found.files)) as progress,
    ):
        with (staging / SKIPPED_NAME).open("w", encoding="utf-8") as skipped.record:
            kept = skipped if skip_bad else None
            if options.fields.language is None:
                languages = _by_file(found.files, kept, progress.add)
            else:
                languages = _by_line(found.files, staging / _SORTED, kept, progress.add)
            for language, read in languages.items():
                chosen = choose(read(), share, max_bytes)
                written = _write(staging, f"{language}.jsonl", divide(read(), chosen))
                without += not written["heldout"]
                for side in SIDES:
                    counts[side] += written[side]
        if not any(counts.values()):
            bad = f": {skipped.count:,} lines are bad" if skipped.count else " and --where"
            raise UserError(f"{shown(inputs[0])}: no document left; check --text-field{bad}")
        remove_folder(staging / _SORTED)
        if not skipped.count:
            (staging / SKIPPED_NAME).unlink()
        write_json(staging / "split.json", {"share": share, "max_bytes": max_bytes, "bytes": counts})
    note = f"; {without} languages are too small to give held-out text" if without else ""
    note += f"; left out {skipped.count:,} bad lines, listed in {output / SKIPPED_NAME}" if skipped.count else ""
    return f"wrote {output}: {counts['train']:,} bytes to train on, {counts['heldout']:,} held out{note}"


def _by_file(files: Iterable[InputFile], skipped: SkippedLines | None, progress: Callable[[int], None]) -> _Languages:
    """Return what reads each language from its files; bad lines count when they are met first."""
    by_language: dict[str, list[InputFile]] = {}
    for file in files:
        by_language.setdefault(file.language or "", []).append(file)

    def reader(files: list[InputFile]) -> Callable[[], Iterator[Document]]:
        passes = iter((skipped, SkippedLines()))
        return lambda: _read(files, next(passes), progress)

    return {language: reader(files) for language, files in by_language.items()}


def _by_line(
    files: Iterable[InputFile], folder: Path, skipped: SkippedLines | None, progress: Callable[[int], None]
) -> _Languages:
    """Sort documents that name their languages into files of ``folder``, and return what reads each language."""
    folder.mkdir()
    paths: dict[str, Path] = {}
    seen: dict[str, str] = {}
    open_files: OrderedDict[str, TextIO] = OrderedDict()
    with ExitStack() as stack:
        for document in _read(files, skipped, lambda done: progress(2 * done)):
            language = document.language or ""
            if language not in paths:
                check_spellings([language], seen)
                paths[language] = folder / f"{len(paths)}.jsonl"
            if language not in open_files:
                if len(open_files) == _OPEN_FILES:
                    open_files.popitem(last=False)[1].close()
                open_files[language] = stack.enter_context(paths[language].open("a", encoding="utf-8"))
            open_files.move_to_end(language)
            open_files[language].write(to_json(document, ensure_ascii=False) + "\n")
    print_warnings(aliases(paths))
    return {language: partial(_read_sorted, paths[language]) for language in sorted(paths)}


def _read_sorted(path: Path) -> Iterator[Document]:
    with path.open(encoding="utf-8", newline="\n") as file:
        for line in file:
            yield Document(*json.loads(line))


def _read(
    files: Iterable[InputFile], skipped: SkippedLines | None, progress: Callable[[int], None]
) -> Iterator[Document]:
    for file in files:
        unreported = file.path.stat().st_size
        for document in read_file(file, skipped):
            size = min(len(document.text), unreported)
            unreported -= size
            progress(size)
            yield document
        progress(unreported)


def _write(folder: Path, name: str, documents: Iterable[tuple[str, str, str]]) -> Counter[str]:
    """Write the documents of a language to the file ``name`` of their sides; returns the bytes of text of each."""
    sizes: Counter[str] = Counter()
    files: dict[str, TextIO] = {}
    for side in SIDES:
        (folder / side).mkdir(exist_ok=True)
    with ExitStack() as stack:
        for side, document_id, text in documents:
            if side not in files:
                files[side] = stack.enter_context((folder / side / name).open("w", encoding="utf-8"))
            files[side].write(to_json({"id": document_id, "text": text}, ensure_ascii=False) + "\n")
            sizes[side] += _bytes(text)
    return sizes


def _order_key(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def _bytes(text: str) -> int:
    return len(text.encode("utf-8"))
