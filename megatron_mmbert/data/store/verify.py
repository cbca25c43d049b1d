"""Checking a token store against its manifest: sizes, checksums, index against data, ids against the vocabulary.

A part that is yet to be merged is checked too, document by document.

A shard whose checksum is wrong is searched document by document with its ``.crc32`` file, so that the report names the
documents (by source, language and number) and not only two gigabytes.

    python tools/verify_data.py store/ --tokenizer tokenizer/
"""

from __future__ import annotations

import hashlib
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.preprocess.partition_reader import REMEDY as PART_REMEDY
from megatron_mmbert.data.preprocess.partition_reader import Partition
from megatron_mmbert.data.preprocess.partition_writer import PART_NAME
from megatron_mmbert.data.preprocess.tokenize_worker import Tokenizer
from megatron_mmbert.data.store.index_format import BIN_ENDING, IDX_ENDING, indexed_dataset
from megatron_mmbert.data.store.manifest import GroupEntry, Manifest, ShardEntry, load_manifest
from megatron_mmbert.data.store.reader import Shard, size_problems
from megatron_mmbert.data.store.writer import CRC_ENDING
from megatron_mmbert.utils.errors import UserError

MOST_PER_SHARD = 5
_READ_BYTES = 16 << 20
_IDS_AT_ONCE = 4 << 20


def verify(
    path: Path, tokenizer: Tokenizer | None = None, progress: Callable[[int], None] = lambda done: None
) -> Iterator[str]:
    """One sentence per problem of the store at ``path``; nothing if it is sound.

    ``progress`` is called with the bytes checked since its last call; in all, the sizes of the ``.bin`` files.

    Raises:
        UserError: there is no store, or its manifest cannot be read.
    """
    if (path / PART_NAME).exists():
        yield from _part_problems(path, progress)
        return
    manifest = load_manifest(path)
    indexed_dataset()  # the seconds of its import before the first progress
    if tokenizer is not None and tokenizer.fingerprint() != manifest.tokenizer.fingerprint:
        yield (
            f"{path}: made with the tokenizer {manifest.tokenizer.fingerprint} ({manifest.tokenizer.path}), "
            f"not with {tokenizer.fingerprint()}; give that tokenizer, or preprocess again with this one"
        )
    yield from _manifest_problems(path, manifest)
    for number, entry in enumerate(manifest.shards):
        problems = list(size_problems(path, (entry,)))
        yield from problems or _shard_problems(path, manifest, number, progress)


def _part_problems(path: Path, progress: Callable[[int], None]) -> Iterator[str]:
    """The first problem of a part that is yet to be merged."""
    try:
        part = Partition(path)
        vocab_size = part.about["tokenizer"]["vocab_size"]
        for language in part.languages:
            for documents in part.read(language):
                if not 0 <= int(documents.ids.min()) <= int(documents.ids.max()) < vocab_size:
                    yield f"{path}: {language} has ids outside the vocabulary of {vocab_size}; {PART_REMEDY}"
                    return
                progress(documents.ids.nbytes)
    except UserError as error:
        yield str(error)


def _manifest_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    """Whether the groups' extents cover every shard once, in order, and counts agree."""
    for group in manifest.groups:
        listed = sum(extent.documents for extent in group.extents)
        if listed != group.documents:
            yield f"{path}: {_name(group)} has {group.documents} documents, its extents {listed}"
    extents = sorted(extent for group in manifest.groups for extent in group.extents)
    for number, shard in enumerate(manifest.shards):
        end = 0
        for extent in (e for e in extents if e.shard == number):
            if extent.first_document != end:
                yield f"{path}: in {shard.name}, document {min(end, extent.first_document)} is in no group or in two"
            end = extent.first_document + extent.documents
        if end != shard.documents:
            yield f"{path}: {shard.name} has {shard.documents} documents, the groups' extents end at {end}"
    tokens = sum(shard.tokens for shard in manifest.shards)
    if tokens != manifest.totals()["tokens"]:
        yield f"{path}: the groups have {manifest.totals()['tokens']} tokens, the shards {tokens}"


def _shard_problems(path: Path, manifest: Manifest, number: int, progress: Callable[[int], None]) -> Iterator[str]:
    """Problems of one shard whose files have the right sizes."""
    entry = manifest.shards[number]
    prefix = path / entry.name
    if _sha256(Path(f"{prefix}{IDX_ENDING}")) != entry.idx_sha256:
        yield f"{prefix}{IDX_ENDING}: damaged, its checksum is not the manifest's"
    crc_path = Path(f"{prefix}{CRC_ENDING}")
    crc_is_sound = crc_path.exists() and _sha256(crc_path) == entry.crc32_sha256
    if not crc_is_sound:
        yield f"{crc_path}: damaged or missing, so bad documents in {entry.name} cannot be named"
    bin_is_sound = _sha256(Path(f"{prefix}{BIN_ENDING}"), progress) == entry.bin_sha256
    try:
        shard = Shard(prefix, manifest.dtype)
    except UserError as error:
        yield str(error)
        shard = None
    index_problems = [] if shard is None else list(_index_problems(prefix, entry, shard))
    yield from index_problems
    if shard is None or index_problems:
        if not bin_is_sound:
            yield f"{prefix}{BIN_ENDING}: damaged, its checksum is not the manifest's"
        return  # without a sound index no document can be found
    where = _Places(manifest, number)
    yield from _token_count_problems(prefix, manifest, number, shard)
    yield from _id_problems(prefix, manifest, shard, where)
    if not bin_is_sound and crc_is_sound:
        yield from _damaged_documents(prefix, shard, np.fromfile(crc_path, "<u4"), where)
    elif not bin_is_sound:
        yield f"{prefix}{BIN_ENDING}: damaged, its checksum is not the manifest's"


def _index_problems(prefix: Path, entry: ShardEntry, shard: Shard) -> Iterator[str]:
    """Whether the index describes exactly the data: documents end to end from the first byte to the last."""
    index = f"{prefix}{IDX_ENDING}"
    if len(shard.lengths) != entry.documents:
        yield f"{index}: {len(shard.lengths)} documents, the manifest has {entry.documents}"
        return
    lengths = shard.lengths.astype(np.int64)
    if lengths.min() < 1:
        yield f"{index}: document {int(lengths.argmin())} has {lengths.min()} tokens"
        return
    ends = np.cumsum(lengths) * shard.ids.itemsize
    wrong = np.flatnonzero(shard.pointers != ends - lengths * shard.ids.itemsize)
    if wrong.size:
        first = int(wrong[0])
        yield f"{index}: document {first} starts at byte {shard.pointers[first]}, not where the one before it ends"
    elif ends[-1] != entry.bin_bytes:
        yield f"{index}: its documents have {ends[-1]} bytes, {prefix.name}{BIN_ENDING} has {entry.bin_bytes}"
    if not np.array_equal(shard.document_ends, np.arange(len(lengths) + 1)):
        yield f"{index}: its documents are not one sequence each"


def _token_count_problems(prefix: Path, manifest: Manifest, number: int, shard: Shard) -> Iterator[str]:
    """Whether groups that lie wholly in this shard have as many tokens as the manifest says."""
    for group in manifest.groups:
        if {extent.shard for extent in group.extents} == {number}:
            tokens = sum(
                int(shard.lengths[e.first_document : e.first_document + e.documents].sum(dtype=np.int64))
                for e in group.extents
            )
            if tokens != group.tokens:
                yield f"{prefix}{IDX_ENDING}: {_name(group)} has {tokens} tokens, the manifest says {group.tokens}"


def _id_problems(prefix: Path, manifest: Manifest, shard: Shard, where: _Places) -> Iterator[str]:
    """The first documents with an id outside the vocabulary."""
    vocab_size = manifest.tokenizer.vocab_size
    starts = shard.pointers // shard.ids.itemsize
    named: set[int] = set()
    for first in range(0, len(shard.ids), _IDS_AT_ONCE):
        block = shard.ids[first : first + _IDS_AT_ONCE]
        if block.max() < vocab_size and block.min() >= 0:
            continue
        for place in np.flatnonzero((block >= vocab_size) | (block < 0)).tolist():
            document = int(np.searchsorted(starts, first + place, side="right")) - 1
            if document not in named and len(named) < MOST_PER_SHARD:
                named.add(document)
                yield (
                    f"{prefix}{BIN_ENDING}: document {document} ({where(document)}) has the id "
                    f"{block[place]} at token {first + place - starts[document]}, the vocabulary has {vocab_size}"
                )


def _damaged_documents(prefix: Path, shard: Shard, checksums: npt.NDArray[np.uint32], where: _Places) -> Iterator[str]:
    """The documents whose crc32 is not the one in ``checksums`` [documents]."""
    bad = [
        document
        for document, length in enumerate(shard.lengths.tolist())
        if zlib.crc32(shard.document(document, 0, length).data) != checksums[document]
    ]
    for document in bad[:MOST_PER_SHARD]:
        yield f"{prefix}{BIN_ENDING}: document {document} ({where(document)}) is damaged, its checksum is wrong"
    if len(bad) > MOST_PER_SHARD:
        yield f"{prefix}{BIN_ENDING}: {len(bad) - MOST_PER_SHARD} more documents are damaged"


class _Places:
    """From a document's number in a shard to its source, language and number there."""

    def __init__(self, manifest: Manifest, shard: int) -> None:
        self._rows: list[tuple[int, int, str]] = []
        for group in manifest.groups:
            before = 0
            for extent in group.extents:
                if extent.shard == shard:
                    self._rows.append((extent.first_document, before, _name(group)))
                before += extent.documents
        self._rows.sort()

    def __call__(self, document: int) -> str:
        row = bisect_right(self._rows, document, key=lambda row: row[0]) - 1
        if row < 0:
            return "in no group"
        first, before, name = self._rows[row]
        return f"{name} number {before + document - first}"


def _name(group: GroupEntry) -> str:
    return f"{group.source}/{group.language}"


def _sha256(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
