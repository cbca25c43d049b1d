"""``manifest.json`` of a token store: its datasets, where their documents lie, and the checksums of every file.

The manifest is a pure function of the inputs, the tokenizer and the arguments: no times, no host, no worker count, so
that two stores can be compared by comparing files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.data.store.index_format import index_bytes
from megatron_mmbert.utils.errors import UserError, first_line
from megatron_mmbert.utils.files import read_json, to_json, write_json
from megatron_mmbert.utils.names import is_name

MANIFEST_NAME = "manifest.json"
# "part" in the file names and formats of partitions is an earlier word for them: those on disks have it, and are read.
PARTITION_NAME = "part.json"
FORMAT = "megatron_mmbert token store"
VERSION = 1
REMEDY = "make the store again with tools/preprocess_data.py"
ITEM_BYTES = {"uint16": 2, "int32": 4}
"""The types of ids, by NumPy's names, and their bytes."""
_CHECKSUM = "sha256"
_MAX_COUNT = 1 << 62
_ROWS_SHOWN = 5


class Extent(NamedTuple):
    """A run of consecutive documents of one (source, language) in one shard."""

    shard: int
    first_document: int
    documents: int


@dataclass(frozen=True)
class DatasetEntry:
    """All documents of one (source, language); ``bytes`` and ``words`` count the UTF-8 text and its whitespace words.

    Fertility is given twice because neither value is meaningful everywhere: ``tokens_per_word`` says nothing for
    scripts without spaces, ``bytes_per_token`` cannot be compared between scripts of different bytes per letter.
    """

    source: str
    language: str
    documents: int
    tokens: int
    bytes: int
    words: int
    extents: tuple[Extent, ...]

    @property
    def name(self) -> str:
        """The name ``SOURCE/LANGUAGE``, for messages."""
        return f"{self.source}/{self.language}"

    @property
    def tokens_per_word(self) -> float:
        return self.tokens / self.words

    @property
    def bytes_per_token(self) -> float:
        return self.bytes / self.tokens


@dataclass(frozen=True)
class ShardEntry:
    """One ``NAME.bin`` / ``NAME.idx`` pair (Megatron's format) and ``NAME.crc32``, one checksum per document."""

    name: str
    documents: int
    tokens: int
    bin_bytes: int
    idx_bytes: int
    bin_sha256: str
    idx_sha256: str
    crc32_sha256: str


@dataclass(frozen=True)
class TokenizerEntry:
    """The tokenizer that made the ids. ``fingerprint`` identifies it; ``path`` only says where it was."""

    path: str
    fingerprint: str
    vocab_size: int


@dataclass(frozen=True)
class Manifest:
    """The whole manifest. ``dtype`` is the NumPy name of the ids' type: uint16 or int32."""

    dtype: str
    tokenizer: TokenizerEntry
    datasets: tuple[DatasetEntry, ...]
    shards: tuple[ShardEntry, ...]
    skipped_lines: int = 0
    duplicates: int = 0

    def totals(self) -> dict[str, int]:
        """Return documents, tokens, bytes and words of all datasets together."""
        return {key: sum(getattr(d, key) for d in self.datasets) for key in ("documents", "tokens", "bytes", "words")}


def save_manifest(store: Path, manifest: Manifest) -> None:
    """Write ``manifest`` into the folder ``store``."""
    entries = []
    for dataset in manifest.datasets:
        entry = asdict(dataset)
        entry["tokens_per_word"] = round(dataset.tokens_per_word, 4)
        entry["bytes_per_token"] = round(dataset.bytes_per_token, 4)
        entry["extents"] = entry.pop("extents")  # last, for the reader's eye
        entries.append(entry)
    value = {
        "format": FORMAT,
        "version": VERSION,
        "dtype": manifest.dtype,
        "tokenizer": asdict(manifest.tokenizer),
        "totals": manifest.totals(),
        "skipped_lines": manifest.skipped_lines,
        "duplicates": manifest.duplicates,
        "groups": entries,  # the datasets: stores of version 1 have this key, and are read
        "shards": [asdict(shard) for shard in manifest.shards],
    }
    write_json(store / MANIFEST_NAME, value | {_CHECKSUM: _checksum(value)})


def load_manifest(store: Path) -> Manifest:
    """Read the manifest of the folder ``store``.

    Raises:
        UserError: ``store`` is missing or no token store, or its manifest is damaged or of another version.
    """
    if not store.exists():
        raise UserError(f"{store}: no such token store; check the path or {REMEDY}")
    if not store.is_dir():
        raise UserError(f"{store}: a token store is a folder, and this is a file; {REMEDY}")
    path = store / MANIFEST_NAME
    if (store / PARTITION_NAME).exists():
        raise UserError(f"{store}: a partition of a store; merge all of them with tools/preprocess_data.py --merge")
    value = read_json(path, "token store manifest", REMEDY)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise UserError(f"{path}: not the manifest of a token store; {REMEDY}")
    if value.get("version") != VERSION:
        raise UserError(f"{path}: format version {value.get('version')!r:.40}, this program reads {VERSION}; {REMEDY}")
    expected = value.pop(_CHECKSUM, None)  # older stores have none
    try:
        manifest = _parse(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged manifest ({type(error).__name__}: {first_line(error)}); {REMEDY}") from None
    if expected is not None and not _has_its_checksum(value, expected):
        raise UserError(
            f"{path}: its values differ from their checksum; copy the store again, or {REMEDY}"
            f' (where you changed them on purpose, delete the line "{_CHECKSUM}")'
        )
    return manifest


def _has_its_checksum(value: dict[str, Any], checksum: object) -> bool:
    try:
        return _checksum(value) == checksum
    except UserError:  # NaN in it, which nobody writes
        return False


def _checksum(value: dict[str, Any]) -> str:
    """Return the SHA-256 of a manifest's values, however its file is laid out."""
    return hashlib.sha256(to_json(value, sort_keys=True).encode()).hexdigest()


def describe(manifest: Manifest) -> str:
    """Return totals and a table of the ``_ROWS_SHOWN`` largest and smallest (source, language) by tokens."""
    totals = manifest.totals()
    datasets = sorted(manifest.datasets, key=lambda dataset: (-dataset.tokens, dataset.source, dataset.language))
    size = sum(shard.bin_bytes + shard.idx_bytes for shard in manifest.shards)
    lines = [
        f"{len(datasets):,} languages, {totals['documents']:,} documents, {totals['tokens']:,} tokens "
        f"({manifest.dtype}), {totals['bytes'] / totals['tokens']:.2f} bytes/token, "
        f"{len(manifest.shards):,} shards, {size / 1e6:.1f} MB",
        f"{'source':<12} {'language':<12} {'documents':>12} {'tokens':>16} {'bytes/token':>11} {'tokens/word':>11}",
    ]
    if manifest.duplicates:
        lines.insert(1, f"{manifest.duplicates:,} duplicate documents left out")
    if len(datasets) <= 2 * _ROWS_SHOWN:
        lines += map(_table_row, datasets)
    else:
        lines += map(_table_row, datasets[:_ROWS_SHOWN])
        lines += [f"... {len(datasets) - 2 * _ROWS_SHOWN:,} more", *map(_table_row, datasets[-_ROWS_SHOWN:])]
    return "\n".join(lines)


def extent_problems(path: Path, manifest: Manifest) -> Iterator[str]:
    """Yield one sentence for each thing in which the datasets' extents do not cover every shard once, in order."""
    for dataset in manifest.datasets:
        listed = sum(extent.documents for extent in dataset.extents)
        if listed != dataset.documents:
            yield f"{path}: {dataset.name} has {dataset.documents} documents, its extents {listed}"
    extents: list[list[Extent]] = [[] for _ in manifest.shards]
    for extent in sorted(extent for dataset in manifest.datasets for extent in dataset.extents):
        extents[extent.shard].append(extent)
    for shard, of_shard in zip(manifest.shards, extents, strict=True):
        end = 0
        for extent in of_shard:
            if extent.first_document != end:
                first = min(end, extent.first_document)
                yield f"{path}: in {shard.name}, document {first} is in no dataset or in two"
            end = extent.first_document + extent.documents
        if end != shard.documents:
            yield f"{path}: {shard.name} has {shard.documents} documents, the datasets' extents end at {end}"
    tokens = sum(shard.tokens for shard in manifest.shards)
    if tokens != manifest.totals()["tokens"]:
        yield f"{path}: the datasets have {manifest.totals()['tokens']} tokens, the shards {tokens}"


def _parse(value: dict[str, Any]) -> Manifest:
    """Return the manifest in ``value``; ValueError, TypeError or KeyError for a value that no manifest has."""
    if value["dtype"] not in ITEM_BYTES:
        raise ValueError(f"dtype {value['dtype']!r} is none of {', '.join(ITEM_BYTES)}")
    shards = tuple(_parse_shard(entry, ITEM_BYTES[value["dtype"]]) for entry in _items(value, "shards"))
    datasets = tuple(_parse_dataset(entry, len(shards)) for entry in _items(value, "groups"))
    for kind, names in (("shards", [s.name for s in shards]), ("datasets", [d.name for d in datasets])):
        if not names or len(set(names)) != len(names):
            raise ValueError(f"no {kind} in it" if not names else f"two {kind} of one name")
    entry = value["tokenizer"]
    tokenizer = TokenizerEntry(_text(entry, "path"), _text(entry, "fingerprint"), _count(entry, "vocab_size", 1))
    duplicates = _count(value, "duplicates") if "duplicates" in value else 0  # older stores have none
    manifest = Manifest(value["dtype"], tokenizer, datasets, shards, _count(value, "skipped_lines"), duplicates)
    for key in ("bytes", "words"):  # nothing else tells that these are wrong
        said = value.get("totals", manifest.totals())[key]
        if said != manifest.totals()[key]:
            raise ValueError(f"its datasets have {manifest.totals()[key]} {key} together, its totals say {said}")
    return manifest


def _parse_dataset(entry: dict[str, Any], shards: int) -> DatasetEntry:
    source, language = (_text(entry, key) for key in ("source", "language"))
    for name in (source, language):
        if not is_name(name):
            raise ValueError(f"{name!r} is no name of a source or language")
    extents = []
    for extent in _items(entry, "extents"):
        fields = dict(zip(Extent._fields, extent, strict=True))
        lows = (0, 0, 1)
        extents.append(Extent(*(_count(fields, key, low) for key, low in zip(Extent._fields, lows, strict=True))))
        if extents[-1].shard >= shards:
            raise ValueError(f"{source}/{language} lies in a shard that is not listed")
    counts = {key: _count(entry, key, 1) for key in ("documents", "tokens", "bytes", "words")}
    return DatasetEntry(source, language, extents=tuple(extents), **counts)


def _parse_shard(entry: dict[str, Any], item_bytes: int) -> ShardEntry:
    shard = ShardEntry(
        name=_text(entry, "name"),
        documents=_count(entry, "documents", 1),
        tokens=_count(entry, "tokens", 1),
        bin_bytes=_count(entry, "bin_bytes", 1),
        idx_bytes=_count(entry, "idx_bytes", 1),
        bin_sha256=_text(entry, "bin_sha256"),
        idx_sha256=_text(entry, "idx_sha256"),
        crc32_sha256=_text(entry, "crc32_sha256"),
    )
    if not is_name(shard.name):
        raise ValueError(f"shard name {shard.name!r} is no name of a file in the store")
    if shard.bin_bytes != shard.tokens * item_bytes or shard.idx_bytes != index_bytes(shard.documents):
        raise ValueError(f"{shard.name}: its numbers of documents, tokens and bytes do not agree")
    return shard


def _items(entry: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(entry[key], list):
        raise TypeError(f"{key} {entry[key]!r} is no list")
    return entry[key]


def _count(entry: dict[str, Any], key: str, low: int = 0) -> int:
    if type(entry[key]) is not int or not low <= entry[key] < _MAX_COUNT:
        raise ValueError(f"{key} {entry[key]!r} is no count of {low} or more")
    count: int = entry[key]
    return count


def _text(entry: dict[str, Any], key: str) -> str:
    if not isinstance(entry[key], str):
        raise TypeError(f"{key} {entry[key]!r} is no text")
    return str(entry[key])


def _table_row(dataset: DatasetEntry) -> str:
    return (
        f"{dataset.source:<12} {dataset.language:<12} {dataset.documents:>12,} {dataset.tokens:>16,} "
        f"{dataset.bytes_per_token:>11.2f} {dataset.tokens_per_word:>11.2f}"
    )
