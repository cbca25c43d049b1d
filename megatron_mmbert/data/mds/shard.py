"""Reading one MDS shard from its first sample to its last, some at a time, in memory that does not grow with it.

A shard is a uint32 with the number n of its samples, n + 1 uint32 offsets, a JSON text with its columns, and the
samples end to end. Offsets and samples are read side by side by two readers of the same file, so that neither is in
memory as a whole, packed or not. What the file says of itself is checked against the index before anything is taken of
it.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.mds.index import COMPRESSIONS, REMEDY, FileEntry, ShardEntry, columns_of
from megatron_mmbert.data.text.line_reader import unpack
from megatron_mmbert.data.text.records import BadLine
from megatron_mmbert.utils.errors import UserError

BLOCK_BYTES = 4 << 20
SKIP_REMEDY = "or pass --skip-bad to leave such samples out"
_OFFSETS_AT_ONCE = 1 << 16
_MAX_CONFIG_BYTES = 1 << 20
_READ_BYTES = 1 << 20


class ShardFile(NamedTuple):
    """A shard on the disk: what the index says of it, and which of its two files is there."""

    path: Path
    entry: ShardEntry
    is_packed: bool

    @property
    def expected(self) -> FileEntry:
        """The entry of the file that is there."""
        return self.entry.packed if self.is_packed and self.entry.packed is not None else self.entry.raw


class SampleBlock(NamedTuple):
    """Consecutive samples of a shard.

    Attributes:
        first: the number of the first of them, from 0.
        offsets: where each begins, and where the last one ends, int64 [samples + 1], from the first one's begin.
        start: where the first one begins in the unpacked shard.
        content: their bytes; None: they are in the file from ``start`` on.
    """

    first: int
    offsets: npt.NDArray[np.int64]
    start: int
    content: bytes | None

    def read(self, path: Path) -> npt.NDArray[np.uint8]:
        """Return the bytes of the samples, uint8 [bytes]; fewer if the file was cut meanwhile."""
        if self.content is not None:
            return np.frombuffer(self.content, np.uint8)
        return np.fromfile(path, np.uint8, int(self.offsets[-1]), offset=self.start)


class DamagedShard(Exception):
    """A shard that is not as it says; the message says in what."""


def hash_problem(file: ShardFile) -> str | None:
    """Return the reason why a file is not the one that was hashed; None if it is, or has no hash.

    Raises:
        UserError: its hashes cannot be computed here.
    """
    for algorithm, wanted in file.expected.hashes.items():
        digest = _new_hash(algorithm, file.path)
        with file.path.open("rb") as stream:
            while block := stream.read(_READ_BYTES):
                digest.update(block)
        if digest.hexdigest() != wanted:
            return f"its {algorithm} is {digest.hexdigest()}, {wanted[:128]!r} in the index; {REMEDY}"
    return None


def read_samples(file: ShardFile, max_bytes: int) -> Iterator[SampleBlock | BadLine]:
    """Yield the samples of a shard in order, about ``BLOCK_BYTES`` at a time; at damage a report, and no more.

    A sample of more than ``max_bytes`` is passed over, and reported.
    """
    samples = 0
    try:
        with ExitStack() as opened:
            table, data = (_Stream(opened, file) for _ in range(2))
            _check_size(file)
            offset = _check_header(file.entry, table, data)
            left = file.entry.samples
            while left:
                count = min(left, _OFFSETS_AT_ONCE)
                offsets = np.concatenate([[offset], np.frombuffer(table.read(4 * count), "<u4").astype(np.int64)])
                _check_offsets(offsets, samples, file.entry.raw.bytes)
                for first, stop in _blocks(offsets, min(BLOCK_BYTES, max_bytes)):
                    yield _block(file, data, offsets, samples, first, stop, max_bytes)
                samples, left, offset = samples + count, left - count, int(offsets[-1])
            if offset != file.entry.raw.bytes or data.has_more(file.is_packed):
                raise DamagedShard(f"the last sample ends at byte {offset} of {file.entry.raw.bytes}")
    except (DamagedShard, EOFError, zlib.error, lzma.LZMAError) as error:
        yield _damaged(file, samples, str(error))
    except OSError as error:
        if error.errno is not None:
            raise UserError(f"{file.path}: cannot be read ({error.strerror}); check the disk, or {REMEDY}") from None
        yield _damaged(file, samples, str(error))


def _damaged(file: ShardFile, samples: int, reason: str) -> BadLine:
    after = f"damaged after sample {samples}" if samples else "damaged"
    return BadLine(str(file.path), 0, f"{after} ({' '.join(reason.split())[:160]}); {REMEDY}")


class _Stream:
    """The unpacked bytes of a shard, read in order."""

    def __init__(self, opened: ExitStack, file: ShardFile) -> None:
        raw: BinaryIO = opened.enter_context(file.path.open("rb"))
        self._is_packed = file.is_packed
        self._stream: Any = (
            unpack(raw, COMPRESSIONS[file.entry.compression or ""], file.path) if file.is_packed else raw
        )
        self._limit = file.entry.raw.bytes
        self.position = 0

    def read(self, count: int) -> bytes:
        """Return the next ``count`` bytes.

        Raises:
            DamagedShard: there are not so many.
        """
        content: bytes = self._stream.read(count) if self.position + count <= self._limit else b""
        while 0 < len(content) < count and (more := self._stream.read(count - len(content))):
            content += more
        if len(content) != count:
            raise DamagedShard(f"it ends at byte {self.position + len(content)}, where {count} more are expected")
        self.position += count
        return content

    def skip(self, count: int) -> None:
        """Pass over ``count`` bytes."""
        if not self._is_packed:
            self._stream.seek(count, 1)
            self.position += count
            return
        while count:
            part = min(count, _READ_BYTES)
            self.read(part)
            count -= part

    def has_more(self, is_packed: bool) -> bool:
        """Tell if anything follows; at the end of a packed file its own checksum is checked."""
        return is_packed and bool(self._stream.read(1))


def _check_size(file: ShardFile) -> None:
    size = file.path.stat().st_size
    if size != file.expected.bytes:
        raise DamagedShard(f"{size} bytes, {file.expected.bytes} in the index")


def _check_header(entry: ShardEntry, table: _Stream, data: _Stream) -> int:
    """Check number, first offset and columns; both readers stand at the second offset and the first sample then.

    Returns the first offset.
    """
    count = int.from_bytes(table.read(4), "little")
    if count != entry.samples:
        raise DamagedShard(f"{count} samples, {entry.samples} in the index")
    before = 4 + 4 * (count + 1)
    offset = int.from_bytes(table.read(4), "little")
    if not before <= offset <= min(before + _MAX_CONFIG_BYTES, entry.raw.bytes):
        raise DamagedShard(f"its first sample begins at byte {offset}, after {before} bytes of offsets")
    data.skip(before)
    try:
        columns = columns_of(json.loads(data.read(offset - before)))
    except (KeyError, TypeError, ValueError, RecursionError):
        raise DamagedShard("its header does not say its columns") from None
    if columns != entry.columns:
        raise DamagedShard(f"its columns are {', '.join(columns.names)[:60]} with other types than in the index")
    return offset


def _check_offsets(offsets: npt.NDArray[np.int64], samples: int, limit: int) -> None:
    wrong = np.flatnonzero((offsets[1:] <= offsets[:-1]) | (offsets[1:] > limit))
    if wrong.size:
        at = int(wrong[0])
        raise DamagedShard(
            f"sample {samples + at + 1} lies from byte {offsets[at]} to {offsets[at + 1]}, of {limit} bytes"
        )


def _blocks(offsets: npt.NDArray[np.int64], size: int) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of samples of at most ``size`` bytes together, or of one."""
    first = 0
    while first < offsets.size - 1:
        stop = int(np.searchsorted(offsets, offsets[first] + size, side="right")) - 1
        stop = max(stop, first + 1)
        yield first, stop
        first = stop


def _block(
    file: ShardFile,
    data: _Stream,
    offsets: npt.NDArray[np.int64],
    samples: int,
    first: int,
    stop: int,
    max_bytes: int,
) -> SampleBlock | BadLine:
    start, size = int(offsets[first]), int(offsets[stop] - offsets[first])
    if size > max_bytes:
        data.skip(size)
        return BadLine(
            str(file.path), samples + stop, f"longer than {max_bytes} bytes; raise --max-sample-bytes, {SKIP_REMEDY}"
        )
    content = data.read(size) if file.is_packed else None
    return SampleBlock(samples + first, offsets[first : stop + 1] - start, start, content)


def _new_hash(algorithm: str, path: Path) -> Any:
    if algorithm in hashlib.algorithms_available and not algorithm.startswith("shake_"):
        return hashlib.new(algorithm)
    try:
        import xxhash
    except ImportError:
        known = None
    else:
        known = getattr(xxhash, algorithm, None) if algorithm in xxhash.algorithms_available else None
    if known is None:
        hint = "run `pip install xxhash`" if algorithm.startswith("xxh") else "take it out of index.json"
        raise UserError(f"{path}: its hash {algorithm[:40]!r} in index.json cannot be computed here; {hint}")
    return known()
