"""Checking a token store against its manifest: sizes, checksums, index against data, ids against the vocabulary.

A shard whose checksum is wrong is searched document by document with its ``.crc32`` file, so that the report names the
documents (by source, language and index) and not only two gigabytes.

    python tools/verify_data.py store/ --tokenizer tokenizer/
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.index_format import BIN_ENDING, IDX_ENDING
from megatron_mmbert.data.store.manifest import REMEDY, Manifest, extent_problems, load_manifest
from megatron_mmbert.data.store.reader import size_problems
from megatron_mmbert.data.store.shard import Shard, sha256_of, small_file_problems

MAX_PER_SHARD = 5
"""Bad documents of one shard that are named; further ones are counted."""
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
    if tokenizer_fingerprint not in (None, manifest.tokenizer.fingerprint):
        yield (
            f"{path}: made with the tokenizer {manifest.tokenizer.fingerprint} ({manifest.tokenizer.path}), "
            f"not with {tokenizer_fingerprint}; give that tokenizer, or preprocess again with this one"
        )
    yield from extent_problems(path, manifest)
    for index, entry in enumerate(manifest.shards):
        problems = list(size_problems(path, (entry,)))
        yield from problems or _shard_problems(path, manifest, index, progress)


def _shard_problems(path: Path, manifest: Manifest, index: int, progress: Callable[[int], None]) -> Iterator[str]:
    """Check one shard whose files have the right sizes."""
    entry = manifest.shards[index]
    prefix = path / entry.name
    small = list(small_file_problems(prefix, entry, manifest.dtype))
    yield from (f"{problem}; copy it again or {REMEDY}" for problem in small)
    valid_bin = sha256_of(Path(f"{prefix}{BIN_ENDING}"), progress) == entry.bin_sha256
    if small:
        if not valid_bin:
            yield f"{prefix}{BIN_ENDING}: damaged, its checksum is not the manifest's"
        return  # without a valid index no document can be found, without checksums no damaged one
    shard = Shard(path, manifest, index)
    yield from _token_count_problems(manifest, index, shard)
    yield from _id_problems(manifest, shard)
    if not valid_bin:
        yield from _damaged_documents(shard) or [f"{prefix}{BIN_ENDING}: damaged, its checksum is not the manifest's"]


def _token_count_problems(manifest: Manifest, index: int, shard: Shard) -> Iterator[str]:
    """Check that datasets that lie wholly in this shard have as many tokens as the manifest says."""
    for dataset in manifest.datasets:
        if {extent.shard for extent in dataset.extents} == {index}:
            tokens = sum(int(shard.lengths(e.first_document, e.documents).sum(dtype=np.int64)) for e in dataset.extents)
            if tokens != dataset.tokens:
                index_path = f"{shard.prefix}{IDX_ENDING}"
                yield f"{index_path}: {dataset.name} has {tokens} tokens, the manifest says {dataset.tokens}"


def _id_problems(manifest: Manifest, shard: Shard) -> Iterator[str]:
    """Name the first documents with an id outside the vocabulary."""
    vocab_size = manifest.tokenizer.vocab_size
    named: set[int] = set()
    for first, block in _blocks_of_ids(Path(f"{shard.prefix}{BIN_ENDING}"), manifest.dtype):
        if block.max() < vocab_size and block.min() >= 0:
            continue
        for offset in np.flatnonzero((block >= vocab_size) | (block < 0)).tolist():
            document, token = shard.find(first + offset)
            if document not in named and len(named) < MAX_PER_SHARD:
                named.add(document)
                where = f"{shard.prefix}{BIN_ENDING}: {shard.name_of(document)}"
                yield f"{where} has the id {block[offset]} at token {token}, the vocabulary has {vocab_size}"


def _blocks_of_ids(path: Path, dtype: str) -> Iterator[tuple[int, npt.NDArray[Any]]]:
    """Yield (index of the first id, ids), some at a time: read, not mapped, as a mapped file may shrink."""
    first = 0
    with path.open("rb") as file:
        while (block := np.fromfile(file, dtype, _IDS_AT_ONCE)).size:
            yield first, block
            first += block.size


def _damaged_documents(shard: Shard) -> list[str]:
    """Return a sentence for each document whose checksum is wrong, the first few, and how many there are beside."""
    bad = [document for document in range(shard.entry.documents) if not shard.is_intact(document)]
    path = f"{shard.prefix}{BIN_ENDING}"
    found = [f"{path}: {shard.name_of(number)} is damaged, its checksum is wrong" for number in bad[:MAX_PER_SHARD]]
    if len(bad) > MAX_PER_SHARD:
        found.append(f"{path}: {len(bad) - MAX_PER_SHARD} more documents are damaged")
    return found
