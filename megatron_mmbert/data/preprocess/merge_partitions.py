"""One store from parts: a language after another, part after part, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from megatron_mmbert.data.preprocess.partition_reader import Partition
from megatron_mmbert.data.store.manifest import GroupEntry, ShardEntry
from megatron_mmbert.data.store.writer import StoreWriter
from megatron_mmbert.data.text.dedup import Deduplicator


class MergedStore(NamedTuple):
    """What was written, and how many duplicates were not."""

    groups: tuple[GroupEntry, ...]
    shards: tuple[ShardEntry, ...]
    duplicates: int


def merge_partitions(
    parts: Sequence[Partition],
    folder: Path,
    source: str,
    shard_bytes: int,
    dedup: bool,
    progress: Callable[[int], None] = lambda done: None,
) -> MergedStore:
    """Write the shards of a store into ``folder``.

    Documents of a language stay in the order of ``parts``, and in a part in its own; with ``dedup`` the first of equal
    texts stays. ``progress`` is called with the bytes of ids done since its last call.

    Raises:
        UserError: a part is damaged.
    """
    writer = StoreWriter(folder, source, parts[0].about["dtype"], shard_bytes)
    duplicates = 0
    for language in sorted({language for part in parts for language in part.languages}):
        unique = Deduplicator() if dedup else None
        for part in parts:
            for documents in part.read(language):
                writer.add(documents if unique is None else unique.keep(documents))
                progress(documents.ids.nbytes)
        duplicates += unique.dropped if unique else 0
    return MergedStore(writer.finish(), tuple(writer.shards), duplicates)
