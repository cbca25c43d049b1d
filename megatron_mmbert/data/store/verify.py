"""Checking a token store against its manifest: sizes, checksums, index against data, ids against the vocabulary.

A shard whose checksum is wrong is searched document by document with its ``.crc32`` file, so that the report names the
documents (by source, language and index) and not only two gigabytes.

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

from megatron_mmbert.data.store.index_format import BIN_ENDING, IDX_ENDING, indexed_dataset
from megatron_mmbert.data.store.manifest import Manifest, ShardEntry, load_manifest
from megatron_mmbert.data.store.reader import Shard, size_problems
from megatron_mmbert.data.store.writer import CRC_ENDING
from megatron_mmbert.utils.errors import UserError

MAX_PER_SHARD = 5
"""Bad documents of one shard that are named; further ones are counted."""
_READ_BYTES = 16 << 20
_IDS_AT_ONCE = 4 << 20


def verify_store(
    path: Path, tokenizer_fingerprint: str | None = None, progress: Callable[[int], None] = lambda done: None
) -> Iterator[str]:
    """Yield one sentence per problem of the store at ``path``; nothing if it is valid.

    ``tokenizer_fingerprint``: the store must have been made with this tokenizer; None: with any. ``progress`` is called
    with the bytes checked since its last call; their total is the size of the ``.bin`` files.

    Raises:
        UserError: there is no store, or its manifest cannot be read.
    """
    manifest = load_manifest(path)
    indexed_dataset()  # the seconds of its import before the first progress
    if tokenizer_fingerprint not in (None, manifest.tokenizer.fingerprint):
        yield (
            f"{path}: made with the tokenizer {manifest.tokenizer.fingerprint} ({manifest.tokenizer.path}), "
            f"not with {tokenizer_fingerprint}; give that tokenizer, or preprocess again with this one"
        )
    yield from _manifest_problems(path, manifest)
    for index, entry in enumerate(manifest.shards):
        problems = list(size_problems(path, (entry,)))
        yield from problems or _shard_problems(path, manifest, index, progress)


def _manifest_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    """Check that the datasets' extents cover every shard once, in order, and that counts agree."""
    for dataset in manifest.datasets:
        listed = sum(extent.documents for extent in dataset.extents)
        if listed != dataset.documents:
            yield f"{path}: {dataset.name} has {dataset.documents} documents, its extents {listed}"
    extents = sorted(extent for dataset in manifest.datasets for extent in dataset.extents)
    for index, shard in enumerate(manifest.shards):
        end = 0
        for extent in (e for e in extents if e.shard == index):
            if extent.first_document != end:
                first = min(end, extent.first_document)
                yield f"{path}: in {shard.name}, document {first} is in no dataset or in two"
            end = extent.first_document + extent.documents
        if end != shard.documents:
            yield f"{path}: {shard.name} has {shard.documents} documents, the datasets' extents end at {end}"
    tokens = sum(shard.tokens for shard in manifest.shards)
    if tokens != manifest.totals()["tokens"]:
        yield f"{path}: the datasets have {manifest.totals()['tokens']} tokens, the shards {tokens}"


def _shard_problems(path: Path, manifest: Manifest, index: int, progress: Callable[[int], None]) -> Iterator[str]:
    """Check one shard whose files have the right sizes."""
    entry = manifest.shards[index]
    prefix = path / entry.name
    if _sha256(Path(f"{prefix}{IDX_ENDING}")) != entry.idx_sha256:
        yield f"{prefix}{IDX_ENDING}: damaged, its checksum is not the manifest's"
    crc_path = Path(f"{prefix}{CRC_ENDING}")
    valid_crc = crc_path.exists() and _sha256(crc_path) == entry.crc32_sha256
    if not valid_crc:
        yield f"{crc_path}: damaged or missing, so bad documents in {entry.name} cannot be named"
    valid_bin = _sha256(Path(f"{prefix}{BIN_ENDING}"), progress) == entry.bin_sha256
    try:
        shard = Shard(prefix, manifest.dtype)
    except UserError as error:
        yield str(error)
        shard = None
    index_problems = [] if shard is None else list(_index_problems(prefix, entry, shard))
    yield from index_problems
    if shard is None or index_problems:
        if not valid_bin:
            yield f"{prefix}{BIN_ENDING}: damaged, its checksum is not the manifest's"
        return  # without a valid index no document can be found
    name_of = _DocumentNames(manifest, index)
    yield from _token_count_problems(prefix, manifest, index, shard)
    yield from _id_problems(prefix, manifest, shard, name_of)
    if not valid_bin and valid_crc:
        yield from _damaged_documents(prefix, shard, np.fromfile(crc_path, "<u4"), name_of)
    elif not valid_bin:
        yield f"{prefix}{BIN_ENDING}: damaged, its checksum is not the manifest's"


def _index_problems(prefix: Path, entry: ShardEntry, shard: Shard) -> Iterator[str]:
    """Check that the index describes exactly the data: documents end to end from the first byte to the last."""
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


def _token_count_problems(prefix: Path, manifest: Manifest, index: int, shard: Shard) -> Iterator[str]:
    """Check that datasets that lie wholly in this shard have as many tokens as the manifest says."""
    for dataset in manifest.datasets:
        if {extent.shard for extent in dataset.extents} == {index}:
            tokens = sum(
                int(shard.lengths[e.first_document : e.first_document + e.documents].sum(dtype=np.int64))
                for e in dataset.extents
            )
            if tokens != dataset.tokens:
                yield f"{prefix}{IDX_ENDING}: {dataset.name} has {tokens} tokens, the manifest says {dataset.tokens}"


def _id_problems(prefix: Path, manifest: Manifest, shard: Shard, name_of: _DocumentNames) -> Iterator[str]:
    """Name the first documents with an id outside the vocabulary."""
    vocab_size = manifest.tokenizer.vocab_size
    starts = shard.pointers // shard.ids.itemsize
    named: set[int] = set()
    for first in range(0, len(shard.ids), _IDS_AT_ONCE):
        block = shard.ids[first : first + _IDS_AT_ONCE]
        if block.max() < vocab_size and block.min() >= 0:
            continue
        for offset in np.flatnonzero((block >= vocab_size) | (block < 0)).tolist():
            document = int(np.searchsorted(starts, first + offset, side="right")) - 1
            if document not in named and len(named) < MAX_PER_SHARD:
                named.add(document)
                yield (
                    f"{prefix}{BIN_ENDING}: document {document} ({name_of(document)}) has the id "
                    f"{block[offset]} at token {first + offset - starts[document]}, the vocabulary has {vocab_size}"
                )


def _damaged_documents(
    prefix: Path, shard: Shard, checksums: npt.NDArray[np.uint32], name_of: _DocumentNames
) -> Iterator[str]:
    """Name the documents whose crc32 is not the one in ``checksums`` [documents]."""
    bad = [
        document
        for document, length in enumerate(shard.lengths.tolist())
        if zlib.crc32(shard.document(document, 0, length).data) != checksums[document]
    ]
    for document in bad[:MAX_PER_SHARD]:
        yield f"{prefix}{BIN_ENDING}: document {document} ({name_of(document)}) is damaged, its checksum is wrong"
    if len(bad) > MAX_PER_SHARD:
        yield f"{prefix}{BIN_ENDING}: {len(bad) - MAX_PER_SHARD} more documents are damaged"


class _DocumentNames:
    """Maps a document of a shard to its source, language and index there."""

    def __init__(self, manifest: Manifest, shard: int) -> None:
        self._extents: list[tuple[int, int, str]] = []
        """(first document in the shard, documents of the dataset before it, name of the dataset), ascending."""
        for dataset in manifest.datasets:
            before = 0
            for extent in dataset.extents:
                if extent.shard == shard:
                    self._extents.append((extent.first_document, before, dataset.name))
                before += extent.documents
        self._extents.sort()

    def __call__(self, document: int) -> str:
        row = bisect_right(self._extents, document, key=lambda extent: extent[0]) - 1
        if row < 0:
            return "in no dataset"
        first, before, name = self._extents[row]
        return f"{name} index {before + document - first}"


def _sha256(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_READ_BYTES):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
