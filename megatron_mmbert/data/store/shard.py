"""One shard of a store, open for reading: its index checked when it is opened, each document when it is first read.

The ids are mapped into memory. A mapped file that somebody cuts short ends the process with SIGBUS and no word, so its
size is looked at before it is touched, every fifth of a millisecond (a cut in between still ends the process); reading
each document by a system call instead slows the loader. The numbers of the index are read once, and not mapped.

A document is compared with its checksum in ``NAME.crc32`` when it is first read, and again when the ``.bin`` has been
written to since. A ``check_share`` below 1 compares that share of the documents, spread over the shard.
"""

from __future__ import annotations

import hashlib
import os
import struct
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.store.document_names import DocumentNames
from megatron_mmbert.data.store.index_format import (
    BIN_ENDING,
    HEADER_BYTES,
    IDX_ENDING,
    LENGTH_BYTES,
    OFFSET_BYTES,
    pack_header,
)
from megatron_mmbert.data.store.manifest import ITEM_BYTES, REMEDY, Manifest, ShardEntry
from megatron_mmbert.data.store.writer import CRC_ENDING
from megatron_mmbert.utils.counter_rng import hash64
from megatron_mmbert.utils.errors import UserError, reason_of

MAX_IN_MEMORY = 1 << 22
"""Documents of a shard whose bounds and checksums are kept in memory, 12 bytes each; those of a larger one are read."""
_AGAIN = f"copy it again or {REMEDY}, then start again"
_BLOCK_BYTES = 1 << 20
_DOCUMENTS_AT_ONCE = 1 << 20
SECONDS_PER_LOOK = 0.0002
Code = Literal["i", "q", "I"]
"""The types of a shard's numbers, as :mod:`struct` writes them."""
_CHECKS = 17  # key of the choice of documents


class Shard:
    """A shard whose files have the sizes of the manifest.

    Attributes:
        entry: what the manifest says of it.
        prefix: the path of its files without their endings.
    """

    # attributes: its files, and what is asked of them at every read

    def __init__(self, path: Path, manifest: Manifest, index: int, check_share: float = 1.0) -> None:
        """Open the shard ``index`` of the store at ``path``.

        Raises:
            UserError: its index or its checksums are not those of the manifest, or no index of whole documents.
        """
        self.entry = manifest.shards[index]
        self.prefix = path / self.entry.name
        self._manifest, self._number = manifest, index
        self._item_bytes, self._dtype = ITEM_BYTES[manifest.dtype], np.dtype(manifest.dtype)
        for problem in small_file_problems(self.prefix, self.entry, manifest.dtype):
            raise UserError(f"{problem}; copy it again or {REMEDY}")
        documents = self.entry.documents
        index_file, self._ids, checksums = (
            _File(Path(f"{self.prefix}{ending}")) for ending in (IDX_ENDING, BIN_ENDING, CRC_ENDING)
        )
        self._lengths = _NumbersOnDisk(index_file, "i", HEADER_BYTES, documents)
        pointers_at = HEADER_BYTES + LENGTH_BYTES * documents
        self._pointers = _numbers(index_file, "q", pointers_at, documents, self.entry.bin_bytes)
        self._checksums = _numbers(checksums, "I", 0, documents)
        self._checksums_on_disk = _NumbersOnDisk(checksums, "I", 0, documents)
        # A plain view: slices of np.memmap objects are slow to make.
        self._mapped = np.memmap(f"{self.prefix}{BIN_ENDING}", self._dtype, "r").view(np.ndarray)
        self._to_check, self._written = _chosen(documents, check_share), 0
        self._unchecked = bytearray(self._to_check)
        self._next_look = 0.0

    def lengths(self, first: int, documents: int) -> npt.NDArray[np.int32]:
        """Return the tokens of ``documents`` documents from ``first``, int32 [documents].

        Raises:
            UserError: the index was cut short.
        """
        return np.frombuffer(self._lengths.read(first, documents), "<i4")

    def checksums(self, first: int, documents: int) -> npt.NDArray[np.uint32]:
        """Return the CRC-32 of the ids of ``documents`` documents from ``first``, uint32 [documents].

        Raises:
            UserError: the file of checksums was cut short.
        """
        return np.frombuffer(self._checksums_on_disk.read(first, documents), "<u4")

    def bounds(self, document: int) -> tuple[int, int]:
        """Return the bytes of ``document`` in the ``.bin``, from and to.

        Raises:
            UserError: the index was cut short or overwritten.
        """
        begin, end = self._pointers[document], self._pointers[document + 1]
        if not 0 <= begin < end <= self.entry.bin_bytes:
            raise UserError(f"{self.prefix}{IDX_ENDING}: changed since it was opened; {_AGAIN}")
        return begin, end

    def document(self, document: int, start: int, stop: int) -> npt.NDArray[Any]:
        """Return ids ``start`` to ``stop`` of one document, read-only, uint16 or int32 [stop - start].

        Raises:
            IndexError: not ``0 <= start <= stop <= length``.
            UserError: the document is not the one that was written, or cannot be read.
        """
        begin, end = self._pointers[document], self._pointers[document + 1]
        first, last = begin + start * self._item_bytes, begin + stop * self._item_bytes
        if not begin <= first <= last <= end:
            begin, end = self.bounds(document)
            raise IndexError(f"tokens {start}:{stop} of a document of {(end - begin) // self._item_bytes} tokens")
        if monotonic() >= self._next_look:
            self._look()
        if self._unchecked[document >> 3] >> (document & 7) & 1:
            self._unchecked[document >> 3] &= ~(1 << (document & 7))
            self._check(document)
        return self._mapped[first // self._item_bytes : last // self._item_bytes]

    def find(self, token: int) -> tuple[int, int]:
        """Return (document, index in it) of the id ``token`` of the shard."""
        at = token * self._item_bytes
        document = bisect_right(range(self.entry.documents), at, key=lambda document: self.bounds(document)[0]) - 1
        return document, (at - self.bounds(document)[0]) // self._item_bytes

    def is_intact(self, document: int) -> bool:
        """Tell if the ids of ``document`` have the checksum that is recorded for them."""
        begin, end = self.bounds(document)
        if monotonic() >= self._next_look:
            self._look()
        ids = self._mapped[begin // self._item_bytes : end // self._item_bytes]
        return zlib.crc32(ids.data) == self._checksums[document]

    def name_of(self, document: int) -> str:
        """Return ``document`` for a message: its number in the shard, and its dataset and number there."""
        return f"document {document} ({DocumentNames(self._manifest, self._number)(document)})"

    def _check(self, document: int) -> None:
        if not self.is_intact(document):
            raise UserError(
                f"{self.prefix}{BIN_ENDING}: {self.name_of(document)} is damaged, its checksum is wrong; copy the file "
                f"again or {REMEDY}; `mmbert verify {self.prefix.parent}` names all that is damaged"
            )

    def _look(self) -> None:
        """Look whether the ids are still there, and check them again if somebody has written to them."""
        self._next_look = monotonic() + SECONDS_PER_LOOK
        size, written = self._ids.state()
        if size < self.entry.bin_bytes:
            raise self._ids.cut()
        if written != self._written:
            self._written = written
            self._unchecked[:] = self._to_check


def _chosen(documents: int, share: float) -> bytes:
    """Return a bit for each document, set for about ``share`` of them."""
    if share >= 1:
        return b"\xff" * (documents // 8 + 1)
    hashed = hash64(_CHECKS, np.arange(documents))
    return np.packbits(hashed < np.uint64(int(share * 2**64)), bitorder="little").tobytes()


class _File:
    """A file that is read by position."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("rb", buffering=0)
        self._descriptor = self._file.fileno()

    def read(self, count: int, offset: int) -> bytes:
        """Return ``count`` bytes from ``offset``.

        Raises:
            UserError: the file has not so many, or cannot be read.
        """
        try:
            content = os.pread(self._descriptor, count, offset)
            if len(content) == count:
                return content
            while more := os.pread(self._descriptor, count - len(content), offset + len(content)):
                content += more  # one read is of 2 GiB at most
        except OSError as error:
            raise UserError(f"{self._file.name}: {reason_of(error.errno or 0, error.strerror)}") from None
        if len(content) < count:
            raise self.cut()
        return content

    def state(self) -> tuple[int, int]:
        """Return the size, and the time of the last write in nanoseconds."""
        found = os.fstat(self._descriptor)
        return found.st_size, found.st_mtime_ns

    def cut(self) -> UserError:
        """Return the error for a file that is shorter than it was."""
        return UserError(f"{self._file.name}: cut to {self.state()[0]} bytes since it was opened; {_AGAIN}")


class _NumbersOnDisk:
    """Numbers of one type, little-endian, in a file from ``offset`` on; after the last comes ``end``."""

    def __init__(self, file: _File, code: Code, offset: int, count: int, end: int = 0) -> None:
        self._file, self._offset, self._count, self._end = file, offset, count, end
        self._number = struct.Struct(f"<{code}")

    def read(self, first: int, count: int) -> bytes:
        """Return ``count`` numbers from ``first`` as they stand in the file."""
        return self._file.read(count * self._number.size, self._offset + first * self._number.size)

    def __getitem__(self, index: int) -> int:
        if index == self._count:
            return self._end
        number: int = self._number.unpack(self.read(index, 1))[0]
        return number


def _numbers(file: _File, code: Code, offset: int, count: int, end: int = 0) -> memoryview | _NumbersOnDisk:
    """Return numbers of the file, in memory where that takes little: reading them takes two more reads a document."""
    on_disk = _NumbersOnDisk(file, code, offset, count, end)
    if count > MAX_IN_MEMORY:
        return on_disk
    return memoryview(on_disk.read(0, count) + struct.pack(f"<{code}", end)).cast(code)


def small_file_problems(prefix: Path, entry: ShardEntry, dtype: str) -> Iterator[str]:
    """Yield one sentence for each fault of a shard's index and checksums: what is checked at every start."""
    yield from index_problems(prefix, entry, dtype)
    for ending, expected in ((IDX_ENDING, entry.idx_sha256), (CRC_ENDING, entry.crc32_sha256)):
        file = Path(f"{prefix}{ending}")
        if sha256_of(file) != expected:
            yield f"{file}: damaged, its checksum is not the manifest's"


def index_problems(prefix: Path, entry: ShardEntry, dtype: str) -> Iterator[str]:
    """Check that the index describes exactly the data: documents end to end from the first byte to the last."""
    path = Path(f"{prefix}{IDX_ENDING}")
    count, item_bytes = entry.documents, ITEM_BYTES[dtype]
    with path.open("rb") as file:
        if file.read(HEADER_BYTES) != pack_header(dtype, count):
            yield f"{path}: damaged index header"
            return
    end = 0
    for first in range(0, count, _DOCUMENTS_AT_ONCE):
        part = min(_DOCUMENTS_AT_ONCE, count - first)
        pointers_at = HEADER_BYTES + LENGTH_BYTES * count
        lengths = np.fromfile(path, "<i4", part, offset=HEADER_BYTES + LENGTH_BYTES * first).astype(np.int64)
        pointers = np.fromfile(path, "<i8", part, offset=pointers_at + OFFSET_BYTES * first)
        ends = np.fromfile(path, "<i8", part, offset=pointers_at + OFFSET_BYTES * (count + first))
        if not len(lengths) == len(pointers) == len(ends) == part:
            yield f"{path}: cut short"
            return
        if lengths.min() < 1:
            yield f"{path}: document {first + int(lengths.argmin())} has {lengths.min()} tokens"
            return
        should = end + (np.cumsum(lengths) - lengths) * item_bytes
        wrong = np.flatnonzero(pointers != should)
        if wrong.size:
            at = int(wrong[0])
            yield f"{path}: document {first + at} starts at byte {pointers[at]}, not where the one before it ends"
            return
        if not np.array_equal(ends, np.arange(first, first + part)):
            yield f"{path}: its documents are not one sequence each"
            return
        end = int(should[-1] + lengths[-1] * item_bytes)
    if end != entry.bin_bytes:
        yield f"{path}: its documents have {end} bytes, {prefix.name}{BIN_ENDING} has {entry.bin_bytes}"


def sha256_of(path: Path, progress: Callable[[int], None] = lambda done: None) -> str:
    """Return the SHA-256 of a file; ``progress`` is called with the bytes read since its last call."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            digest.update(block)
            progress(len(block))
    return digest.hexdigest()
