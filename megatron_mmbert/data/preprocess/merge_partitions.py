"""One store from partitions: a language after another, partition after partition, in memory that does not grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megatron_mmbert.data.preprocess.job import inputs_digest
from megatron_mmbert.data.preprocess.output_folder import MADE_FROM_NAME
from megatron_mmbert.data.preprocess.partition_reader import Partition
from megatron_mmbert.data.preprocess.partition_writer import InputIdentity
from megatron_mmbert.data.store.manifest import REMEDY, DatasetEntry, ShardEntry
from megatron_mmbert.data.store.writer import StoreWriter, split_dataset
from megatron_mmbert.data.text.dedup import DigestSet
from megatron_mmbert.data.text.sentence_splitter import SENTENCES_NAME, TrainedSplitter, load_splitters
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

_PARTITIONS = "partitions"


class MergedStore(NamedTuple):
    """The entries of the store written, and the count of duplicates left out."""

    datasets: tuple[DatasetEntry, ...]
    shards: tuple[ShardEntry, ...]
    duplicates: int


class PartitionSet(NamedTuple):
    """All partitions of a store in their order, the settings that they share, and all their inputs."""

    partitions: list[Partition]
    settings: dict[str, Any]
    inputs: list[InputIdentity]

    @property
    def left_out(self) -> int:
        """Documents that did not meet a condition."""
        return sum(partition.left_out for partition in self.partitions)


def merge_partitions(
    partitions: Sequence[Partition],
    folder: Path,
    source: str | None,
    shard_bytes: int,
    dedup: bool,
    progress: Callable[[int], None] = lambda done: None,
) -> MergedStore:
    """Write the shards of a store into ``folder``.

    Documents of a language stay in the order of ``partitions``, and in a partition in its own; with ``dedup`` the first
    of equal texts stays. ``source``: as :class:`StoreWriter`'s. ``progress`` is called with the bytes of ids done since
    its last call.

    Raises:
        UserError: a partition is damaged.
    """
    writer = StoreWriter(folder, source, partitions[0].about["dtype"], shard_bytes)
    duplicates = 0
    languages = {language for partition in partitions for language in partition.languages}
    for language in sorted(languages, key=split_dataset):
        seen = DigestSet() if dedup else None
        for partition in partitions:
            for documents in partition.read(language):
                unique = documents if seen is None else documents.take(seen.add(documents.rows["digest"]))
                duplicates += documents.rows.size - unique.rows.size
                writer.add(unique)
                progress(documents.ids.nbytes)
    return MergedStore(writer.finish(), tuple(writer.shards), duplicates)


def open_partitions(paths: Sequence[Path]) -> PartitionSet:
    """Open all partitions of one store.

    Raises:
        UserError: a partition is missing, given twice, damaged or of another store.
    """
    found: dict[int, tuple[Partition, list[InputIdentity]]] = {}
    shared: dict[str, Any] = {}
    for path in paths:
        partition = Partition(path)
        (index, count), inputs, same = _made_from(path)
        shared = shared or same
        if same != shared:
            other = ", ".join(sorted(k for k in same.keys() | shared.keys() if same.get(k) != shared.get(k)))
            raise UserError(f"{path}: of another store than {paths[0]} (other {other}); give partitions of one store")
        if index in found:
            raise UserError(f"{path}: partition {index} of {count} again, as {found[index][0].path}; give each once")
        found[index] = partition, inputs
    count = shared.pop(_PARTITIONS)
    missing = [index for index in range(1, count + 1) if index not in found]
    if missing:
        raise UserError(f"{paths[0].parent}: partition {missing[0]} of {count} is missing; make it, or name it too")
    ordered = [found[index] for index in sorted(found)]
    all_inputs = [one for _, inputs in ordered for one in inputs]
    # Tasks of datatrove know nothing of each other's documents.
    if shared.pop("all_inputs") not in ("", inputs_digest(all_inputs)):
        raise UserError(
            f"{paths[0]}: its input files changed while the partitions were made; make all partitions again"
        )
    return PartitionSet([partition for partition, _ in ordered], shared, all_inputs)


def _made_from(path: Path) -> tuple[tuple[int, int], list[InputIdentity], dict[str, Any]]:
    """Return a partition's (number, count), its inputs, and what all partitions of its store were made from.

    Raises:
        UserError: the record is missing or damaged.
    """
    record = path / MADE_FROM_NAME
    value = read_json(record, "record of the inputs", REMEDY)
    try:
        number, count = (int(each) for each in value.pop("shard"))  # the earlier name of --partition
        inputs = [[path, language, size, time] for path, language, size, time in value.pop("inputs")]
        return (number, count), inputs, {**value, "all_inputs": str(value["all_inputs"]), _PARTITIONS: count}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise UserError(f"{record}: damaged record of the inputs; {REMEDY}") from None


def all_splitters(partitions: Sequence[Partition]) -> dict[str, TrainedSplitter]:
    """Return the sentence splitters of all languages; partitions that share a language have the same one.

    Raises:
        UserError: they differ.
    """
    languages: dict[str, TrainedSplitter] = {}
    for partition in partitions:
        for language, trained in load_splitters(partition.path / SENTENCES_NAME).items():
            if languages.setdefault(language, trained) != trained:
                raise UserError(
                    f"{partition.path}: sentences of {language} learned from other text; make all partitions again"
                )
    return languages
