"""The name of a shard's document: its source, its language, and its index in that dataset."""

from __future__ import annotations

from bisect import bisect_right

from megatron_mmbert.data.store.manifest import Manifest


class DocumentNames:
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
