"""Writing MDS shards as MosaicML's writer does, with an ``index.json`` that says their sizes and SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.data.mds.index import INDEX_NAME, VERSION
from megatron_mmbert.data.text.line_reader import arrow
from megatron_mmbert.utils.files import put_json, to_json

SHARD_BYTES = 1 << 26
"""MosaicML's limit of a shard, and that of mmBERT's data."""
HASH = "sha256"
_COLUMNS = {"id": ("str", None), "input_ids": ("ndarray:uint32", None), "len": ("int", 8)}
"""Encoding and fixed size of the columns, as mmBERT's data has them; sorted by name, as in a sample."""
_ZSTD_LEVEL = 3  # MosaicML's


class MdsWriter:
    """Writes samples (id, input_ids, len) into shards in ``folder``.

    Attributes:
        entries: what an index says of the shards written.
    """

    # attributes: the shard in the making, and what every shard says of itself

    def __init__(self, folder: Path, compression: str | None = None, shard_bytes: int = SHARD_BYTES) -> None:
        """``compression``: ``zstd`` or None; ``shard_bytes``: limit of a shard, which a single sample may exceed."""
        folder.mkdir(parents=True)
        self.entries: list[dict[str, Any]] = []
        self._folder, self._compression, self._limit = folder, compression, shard_bytes
        self._config = {
            "version": VERSION,
            "format": "mds",
            "compression": compression,
            "hashes": [HASH],
            "size_limit": shard_bytes,
            "column_names": list(_COLUMNS),
            "column_encodings": [encoding for encoding, _ in _COLUMNS.values()],
            "column_sizes": [size for _, size in _COLUMNS.values()],
        }
        self._header = to_json(self._config, sort_keys=True).encode()
        self._samples = bytearray()
        self._sizes: list[int] = []

    def add(self, name: str, ids: npt.NDArray[np.uint32]) -> None:
        """Append a sample: its id, and its token ids, uint32 [tokens]."""
        written = name.encode()
        content = _shape(ids.size) + ids.astype("<u4").tobytes()
        head = np.array([len(written), len(content)], "<u4").tobytes()
        sample = b"".join((head, written, content, ids.size.to_bytes(8, "little")))
        if self._sizes and self._total(len(self._samples) + len(sample), len(self._sizes) + 1) > self._limit:
            self._flush()
        self._samples += sample
        self._sizes.append(len(sample))

    def finish(self) -> None:
        """Write the last shard, and the index."""
        if self._sizes:
            self._flush()
        write_index(self._folder, self.entries)

    def _total(self, content: int, samples: int) -> int:
        return 4 + 4 * (samples + 1) + len(self._header) + content

    def _flush(self) -> None:
        count = len(self._sizes)
        offsets = np.concatenate([[0], np.cumsum(self._sizes)]) + self._total(0, count)
        table = count.to_bytes(4, "little") + offsets.astype("<u4").tobytes() + self._header
        raw = table + bytes(self._samples)
        name = f"shard.{len(self.entries):05d}.mds"
        entry = {"samples": count, "raw_data": _describe(name, raw), "zip_data": None}
        if self._compression is not None:
            pa = arrow(self._folder)
            name, raw = f"{name}.zstd", pa.Codec("zstd", _ZSTD_LEVEL).compress(raw, asbytes=True)
            entry["zip_data"] = _describe(name, raw)
        (self._folder / name).write_bytes(raw)
        self.entries.append(self._config | entry)
        self._samples, self._sizes = bytearray(), []


def write_index(folder: Path, entries: list[dict[str, Any]]) -> None:
    """Write the ``index.json`` of shards below ``folder``."""
    put_json(folder / INDEX_NAME, {"version": VERSION, "shards": entries})


def below(folder: str, entry: dict[str, Any]) -> dict[str, Any]:
    """Return an entry for an index that lies above ``folder``, as MosaicML merges indexes."""
    moved = dict(entry)
    for kind in ("raw_data", "zip_data"):
        if entry[kind] is not None:
            moved[kind] = entry[kind] | {"basename": f"{folder}/{entry[kind]['basename']}"}
    return moved


def _shape(size: int) -> bytes:
    """Return the shape of a row of ``size`` values: a byte with dimensions and width, and the size in that width."""
    code = next(code for code in range(4) if size < 1 << (8 << code))
    return bytes([1 << 2 | code]) + size.to_bytes(1 << code, "little")


def _describe(name: str, content: bytes) -> dict[str, Any]:
    return {"basename": name, "bytes": len(content), "hashes": {HASH: hashlib.sha256(content).hexdigest()}}
