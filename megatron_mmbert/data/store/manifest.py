"""``manifest.json`` of a token store: its datasets, where their documents lie, and the checksums of every file.

The manifest is a pure function of the inputs, the tokenizer and the arguments: no times, no host, no worker count, so
that two stores can be compared by comparing files.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json, write_json

MANIFEST_NAME = "manifest.json"
# "part" in the file names and formats of partitions is an earlier word for them: those on disks have it, and are read.
PARTITION_NAME = "part.json"
FORMAT = "megatron_mmbert token store"
VERSION = 1
REMEDY = "make the store again with tools/preprocess_data.py"
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
    write_json(store / MANIFEST_NAME, value)


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
        raise UserError(f"{path}: format version {value.get('version')!r}, this program reads {VERSION}; {REMEDY}")
    try:
        return _parse(value)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged manifest ({type(error).__name__}: {error}); {REMEDY}") from None


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


def _parse(value: dict[str, Any]) -> Manifest:
    datasets = tuple(
        DatasetEntry(
            source=str(entry["source"]),
            language=str(entry["language"]),
            extents=tuple(Extent(*map(int, extent)) for extent in entry["extents"]),
            **{key: int(entry[key]) for key in ("documents", "tokens", "bytes", "words")},
        )
        for entry in value["groups"]
    )
    shards = tuple(ShardEntry(**entry) for entry in value["shards"])
    if value["dtype"] not in ("uint16", "int32"):
        raise ValueError(f"dtype {value['dtype']!r}")
    for dataset in datasets:
        if any(not 0 <= extent.shard < len(shards) for extent in dataset.extents):
            raise ValueError(f"{dataset.name} lies in a shard that is not listed")
    tokenizer = TokenizerEntry(**value["tokenizer"])
    skipped, duplicates = int(value["skipped_lines"]), int(value.get("duplicates", 0))  # older stores have none
    return Manifest(value["dtype"], tokenizer, datasets, shards, skipped, duplicates)


def _table_row(dataset: DatasetEntry) -> str:
    return (
        f"{dataset.source:<12} {dataset.language:<12} {dataset.documents:>12,} {dataset.tokens:>16,} "
        f"{dataset.bytes_per_token:>11.2f} {dataset.tokens_per_word:>11.2f}"
    )
