"""A store in a few lines of text: totals, and its largest and smallest languages."""

from __future__ import annotations

from megatron_mmbert.data.store.manifest import GroupEntry, Manifest

ROWS = 5


def describe(manifest: Manifest) -> str:
    """Totals and a table of the ``ROWS`` largest and smallest (source, language) by tokens."""
    totals = manifest.totals()
    groups = sorted(manifest.groups, key=lambda group: (-group.tokens, group.source, group.language))
    size = sum(shard.bin_bytes + shard.idx_bytes for shard in manifest.shards)
    lines = [
        f"{len(groups):,} languages, {totals['documents']:,} documents, {totals['tokens']:,} tokens "
        f"({manifest.dtype}), {totals['bytes'] / totals['tokens']:.2f} bytes/token, "
        f"{len(manifest.shards):,} shards, {size / 1e6:.1f} MB",
        f"{'source':<12} {'language':<12} {'documents':>12} {'tokens':>16} {'bytes/token':>11} {'tokens/word':>11}",
    ]
    if manifest.duplicates:
        lines.insert(1, f"{manifest.duplicates:,} duplicate documents left out")
    if len(groups) <= 2 * ROWS:
        lines += map(_row, groups)
    else:
        lines += [*map(_row, groups[:ROWS]), f"... {len(groups) - 2 * ROWS:,} more", *map(_row, groups[-ROWS:])]
    return "\n".join(lines)


def _row(group: GroupEntry) -> str:
    return (
        f"{group.source:<12} {group.language:<12} {group.documents:>12,} {group.tokens:>16,} "
        f"{group.bytes_per_token:>11.2f} {group.tokens_per_word:>11.2f}"
    )
