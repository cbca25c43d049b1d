"""Setting held-out text aside, for languages of any size.

A file with enough documents gives whole ones, chosen by a hash of their ids, so that adding documents moves no other.
A smaller file (hundreds of languages have a single document) gives the last lines of its longest document: better
held-out text from a document whose beginning is trained on than none at all, but mind that when comparing languages.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tqdm import tqdm

from megatron_mmbert.data.text.documents import read_file
from megatron_mmbert.data.text.inputs.discover import AS_FOUND, InputOptions, discover
from megatron_mmbert.data.text.records import Document, InputFile
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import to_json, write_json
from megatron_mmbert.utils.output_kinds import HELD_OUT_SPLIT
from megatron_mmbert.utils.outputs import check_output, output_folder

_MIN_DOCUMENTS = 10
_MIN_LINES = 4


@dataclass(frozen=True)
class Split:
    """Documents (id, text) for training and held out."""

    train: list[tuple[str, str]]
    heldout: list[tuple[str, str]]


def split_documents(documents: Sequence[Document], share: float, max_bytes: int) -> Split:
    """Hold out about ``share`` of the documents' bytes, at most ``max_bytes``."""
    wanted = min(share * sum(_bytes(document.text) for document in documents), max_bytes)
    if len(documents) < _MIN_DOCUMENTS:
        return _split_longest(documents, wanted)
    chosen: set[int] = set()
    taken = 0
    for index in sorted(range(len(documents)), key=lambda n: _order_key(documents[n].id)):
        if taken >= wanted:
            break
        chosen.add(index)
        taken += _bytes(documents[index].text)
    sides: tuple[list[tuple[str, str]], list[tuple[str, str]]] = ([], [])
    for index, document in enumerate(documents):
        sides[index in chosen].append((document.id, document.text))
    return Split(*sides)


def _split_longest(documents: Sequence[Document], wanted: float) -> Split:
    """Hold out about ``wanted`` bytes of whole lines at the end of the longest document, at most half of them."""
    longest = max(range(len(documents)), key=lambda n: _bytes(documents[n].text), default=None)
    train = [(document.id, document.text) for document in documents]
    if longest is None:
        return Split(train, [])
    lines = documents[longest].text.split("\n")
    if len(lines) < _MIN_LINES:
        return Split(train, [])
    cut, taken = len(lines), 0
    while cut > len(lines) // 2 and taken < wanted:
        cut -= 1
        taken += _bytes(lines[cut])
    name = documents[longest].id
    train[longest] = (name, "\n".join(lines[:cut]).rstrip())
    return Split(train, [(f"{name}#end", "\n".join(lines[cut:]).strip())])


def split_files(
    inputs: Iterable[Path],
    output: Path,
    share: float,
    max_bytes: int,
    overwrite: bool = False,
    options: InputOptions = AS_FOUND,
) -> str:
    """Write ``output``/train and ``output``/heldout with one file per language; return a sentence on the result.

    Raises:
        UserError: bad input lines, a language that is not clear, or an ``output`` that exists.
    """
    if not 0 < share < 1:
        raise UserError(f"--share {share}: give a number between 0 and 1, such as 0.05")
    inputs = list(inputs)
    check_output(output, HELD_OUT_SPLIT, inputs, overwrite)
    found = discover(inputs, options)
    found.announce()
    by_language: dict[str, list[InputFile]] = {}
    for file in found.files:
        by_language.setdefault(file.language or "", []).append(file)
    counts = {"train": 0, "heldout": 0}
    without = 0
    with output_folder(output, HELD_OUT_SPLIT, inputs, overwrite) as staging:
        for language, files in tqdm(by_language.items(), desc="splitting", unit="language", disable=None):
            documents = list(chain.from_iterable(map(read_file, files)))
            split = split_documents(documents, share, max_bytes)
            without += not split.heldout
            for name in counts:
                counts[name] += _write(staging / name / f"{language}.jsonl", getattr(split, name))
        write_json(staging / "split.json", {"share": share, "max_bytes": max_bytes, "bytes": counts})
    note = f"; {without} languages are too small to give held-out text" if without else ""
    return f"wrote {output}: {counts['train']:,} bytes to train on, {counts['heldout']:,} held out{note}"


def _write(path: Path, documents: Sequence[tuple[str, str]]) -> int:
    path.parent.mkdir(exist_ok=True)
    if documents:
        lines = (to_json({"id": name, "text": text}, ensure_ascii=False) + "\n" for name, text in documents)
        path.write_text("".join(lines), encoding="utf-8")
    return sum(_bytes(text) for _, text in documents)


def _order_key(name: str) -> bytes:
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def _bytes(text: str) -> int:
    return len(text.encode("utf-8"))
