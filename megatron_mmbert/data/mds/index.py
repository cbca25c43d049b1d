"""``index.json`` of a folder of MDS shards, or of a tree of such folders: the shards, and what is in them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from megatron_mmbert.data.mds.columns import Columns, are_plain, fixed_size
from megatron_mmbert.utils.errors import UserError

INDEX_NAME = "index.json"
VERSION = 2
COMPRESSIONS = {"zstd": ".zst", "gz": ".gz", "bz2": ".bz2"}
"""The compressions of shards that are read, and the endings that this program has for them."""
REMEDY = "download it again"

_MAX_INDEX_BYTES = 256 << 20
_MAX_SHARD_BYTES = 1 << 32  # offsets are 32 bits
_MAX_SAMPLES = 1 << 30


class FileEntry(NamedTuple):
    """A file of a shard: its path relative to the index, its bytes, and its hashes by algorithm."""

    name: str
    bytes: int
    hashes: Mapping[str, str]


class ShardEntry(NamedTuple):
    """A shard: its columns, its samples, and its file, unpacked and packed (None: there is no packed one).

    MosaicML's writer leaves a shard without samples before a first one that is above its limit.
    """

    columns: Columns
    samples: int
    raw: FileEntry
    packed: FileEntry | None
    compression: str | None


def read_index(path: Path) -> list[ShardEntry]:
    """Return the shards that an ``index.json`` lists.

    Raises:
        UserError: it cannot be read, or is of another shape.
    """
    try:
        size = path.stat().st_size
        if size > _MAX_INDEX_BYTES:
            raise UserError(f"{path}: {size} bytes, an index has at most {_MAX_INDEX_BYTES}; {REMEDY}")
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); make it readable") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: damaged index ({' '.join(str(error).split())[:120]}); {REMEDY}") from None
    shards = value.get("shards") if isinstance(value, dict) else None
    if not isinstance(shards, list) or not shards:
        raise UserError(f"{path}: not the index of MDS shards; name another folder, or {REMEDY}")
    if value.get("version") != VERSION:
        raise UserError(f"{path}: index of version {value.get('version')!r:.40}, this program reads {VERSION}")
    try:
        return [_shard(entry) for entry in shards]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reason = f"no {error}" if isinstance(error, KeyError) else str(error)[:160]
        raise UserError(f"{path}: damaged index ({reason}); {REMEDY}") from None


def columns_of(entry: Mapping[str, Any]) -> Columns:
    """Return the columns that an entry of an index, or the header of a shard, describes.

    Raises:
        KeyError, TypeError, ValueError: it describes none.
    """
    names, encodings, sizes = (tuple(entry[f"column_{what}"]) for what in ("names", "encodings", "sizes"))
    if not names or not are_plain(names) or not len(names) == len(encodings) == len(sizes):
        raise ValueError("its columns do not have one name, one encoding and one size each")
    for name, encoding, size in zip(names, encodings, sizes, strict=True):
        if not isinstance(encoding, str) or fixed_size(encoding) != size or isinstance(size, bool | float):
            raise ValueError(f"column {name!r:.40} of encoding {encoding!r:.40} cannot have size {size!r:.40}")
    return Columns(names, encodings, sizes)


def _shard(entry: dict[str, Any]) -> ShardEntry:
    if entry["format"] != "mds" or entry["version"] != VERSION:
        raise ValueError(f"a shard of format {entry['format']!r:.40}, version {entry['version']!r:.40}")
    compression = entry["compression"]
    if compression is not None:
        algorithm = compression.partition(":")[0]
        if algorithm not in COMPRESSIONS:
            raise ValueError(f"compression {compression!r:.40} is none of {', '.join(COMPRESSIONS)}; unpack the shards")
        compression = algorithm
    packed = entry["zip_data"]
    if (packed is None) != (compression is None):
        raise ValueError(f"compression {compression!r} and packed file {packed!r:.60} do not go together")
    return ShardEntry(
        columns_of(entry),
        _count(entry, "samples", 0, _MAX_SAMPLES),
        _file(entry["raw_data"]),
        None if packed is None else _file(packed),
        compression,
    )


def _file(entry: dict[str, Any]) -> FileEntry:
    name, hashes = entry["basename"], entry.get("hashes") or {}
    path = PurePosixPath(name)
    inside = not path.is_absolute() and ".." not in path.parts and path.name
    if not inside or not name.isprintable() or "\\" in name:
        raise ValueError(f"{name!r:.80} names no file below its folder")
    if not isinstance(hashes, dict) or not all(isinstance(text, str) for pair in hashes.items() for text in pair):
        raise ValueError(f"hashes {hashes!r:.60} of {name!r:.60}")
    return FileEntry(path.as_posix(), _count(entry, "bytes", 1, _MAX_SHARD_BYTES), hashes)


def _count(entry: dict[str, Any], key: str, low: int, limit: int) -> int:
    value = entry[key]
    if type(value) is not int or not low <= value < limit:
        raise ValueError(f"{key} {value!r:.40} is not between {low} and {limit - 1}")
    return value
