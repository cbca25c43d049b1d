"""A token store to MDS shards of the columns that mmBERT's data has, a folder for each source and language."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.config.base import SPECIAL_TOKENS_PER_SAMPLE
from megatron_mmbert.data.mds.writer import SHARD_BYTES, MdsWriter, below, write_index
from megatron_mmbert.data.store.reader import Dataset, Store
from megatron_mmbert.tokenizer.load import Tokenizer, load_tokenizer
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.output_kinds import MDS
from megatron_mmbert.utils.outputs import output_folder
from megatron_mmbert.utils.progress import ByteProgress


@dataclass(frozen=True)
class ExportJob:
    """One export.

    Attributes:
        tokenizer: the one that made the store, for its ``<bos>`` and ``<eos>``.
        sources: those to write; None: all.
        languages: likewise.
        compression: ``zstd``, or None.
        shard_bytes: limit of a shard.
        max_length: cut documents into samples of so many ids, ``<bos>`` and ``<eos>`` included; None: leave them whole.
    """

    store: Path
    tokenizer: Path
    output: Path
    sources: tuple[str, ...] | None = None
    languages: tuple[str, ...] | None = None
    compression: str | None = None
    shard_bytes: int = SHARD_BYTES
    max_length: int | None = None
    overwrite: bool = False


def export_mds(job: ExportJob) -> None:
    """Write the MDS shards of ``job``; prints what it wrote.

    Raises:
        UserError: bad arguments, a store that is damaged or of another tokenizer, or the output exists.
    """
    with output_folder(job.output, MDS, (job.store, job.tokenizer), job.overwrite) as folder:
        store, tokenizer = Store.open(job.store), load_tokenizer(job.tokenizer)
        if not tokenizer.has_fingerprint(store.tokenizer_fingerprint):
            raise UserError(
                f"{job.tokenizer}: not the tokenizer of {job.store}, {store.manifest.tokenizer.path} made it"
            )
        datasets = _chosen(store, job)
        entries: list[dict[str, Any]] = []
        with ByteProgress("export", sum(dataset.bytes for dataset in datasets)) as progress:
            for dataset in datasets:
                name = f"{dataset.source}/{dataset.language}"
                writer = MdsWriter(folder / name, job.compression, job.shard_bytes)
                for sample, ids in _samples(store, dataset, tokenizer, job.max_length):
                    writer.add(f"{name}/{sample}", ids)
                writer.finish()
                entries += [below(name, entry) for entry in writer.entries]
                progress.add(dataset.bytes)
        write_index(folder, entries)
    samples = sum(entry["samples"] for entry in entries)
    print(f"{job.output}: {len(datasets):,} languages, {samples:,} samples in {len(entries):,} shards")


def _chosen(store: Store, job: ExportJob) -> list[Dataset]:
    """Return the datasets to write.

    Raises:
        UserError: the store has no such source or language.
    """
    for source in job.sources or ():
        store.languages(source)
    chosen = [each for each in store.datasets if job.sources is None or each.source in job.sources]
    for language in job.languages or ():
        if language not in {each.language for each in chosen}:
            store.reader(chosen[0].source, language)  # says what there is
    return [each for each in chosen if job.languages is None or each.language in job.languages]


def _samples(
    store: Store, dataset: Dataset, tokenizer: Tokenizer, max_length: int | None
) -> Iterator[tuple[str, npt.NDArray[np.uint32]]]:
    """Yield name and ids of every sample, uint32 [tokens], ``<bos>`` and ``<eos>`` at its ends."""
    read = store.reader(dataset.source, dataset.language)
    for document, length in enumerate(store.document_lengths(dataset.source, dataset.language).tolist()):
        step = length if max_length is None else max_length - SPECIAL_TOKENS_PER_SAMPLE
        for start in range(0, length, step):
            stop = min(start + step, length)
            ids = np.empty(stop - start + SPECIAL_TOKENS_PER_SAMPLE, np.uint32)
            ids[0], ids[1:-1], ids[-1] = tokenizer.bos_id, read(document, start, stop), tokenizer.eos_id
            yield str(document) if max_length is None else f"{document}:{start}", ids
