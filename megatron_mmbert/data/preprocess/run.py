"""Text to a token store, with any number of workers, kills and array tasks, to the same bytes.

Input files are taken in the order (language, path); a pool of workers tokenizes batches of their lines and hands them
back in order; a partition on the disk takes them (``partition_writer``); from partitions ``merge_partitions`` cuts the
store, which a rename publishes.
A killed command resumes after the last input file that it finished. Beside the manifest lies ``made_from.json``, which
says from what: the same command run again finds that there is nothing to do.

    python tools/preprocess_data.py --input corpus/ --tokenizer tokenizer/ --output store/ --workers 8
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from megatron_mmbert.data.preprocess.job import (
    PreprocessJob,
    input_identities,
    inputs_digest,
    partition_files,
)
from megatron_mmbert.data.preprocess.merge_partitions import (
    PartitionSet,
    all_splitters,
    merge_partitions,
    open_partitions,
)
from megatron_mmbert.data.preprocess.output_folder import (
    MADE_FROM_NAME,
    check_replaceable,
    copy_skipped,
    is_made,
    print_left_out,
    print_skipped,
    staging_folder,
)
from megatron_mmbert.data.preprocess.partition_maker import PartitionMaker, StoreJob
from megatron_mmbert.data.preprocess.partition_reader import Partition
from megatron_mmbert.data.preprocess.partition_writer import IDS_NAME
from megatron_mmbert.data.preprocess.tokenize_partition import PartitionTokenizer
from megatron_mmbert.data.store.manifest import Manifest, TokenizerEntry, describe, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.text.inputs.codes import aliases, check_spellings
from megatron_mmbert.data.text.inputs.discover import print_warnings
from megatron_mmbert.data.text.sentence_splitter import SENTENCES_NAME, save_splitters
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import remove_folder, replace_folder, write_json
from megatron_mmbert.utils.progress import ByteProgress

__all__ = ["PreprocessJob", "make_partition", "make_store", "merge", "preprocess", "preprocess_partition"]

_PARTITION_FOLDER = "part"  # in the staging folder; a command killed before an update finds its work


def preprocess(job: PreprocessJob) -> None:
    """Make the store of ``job``, or find that it is made already; prints its summary.

    Raises:
        UserError: bad arguments or input, or the output exists and is something else.
    """
    make_store(job, PartitionTokenizer(job))


def make_store(job: StoreJob, maker: PartitionMaker) -> None:
    """Make the store of ``job`` by way of the one partition of ``maker``, as :func:`preprocess`."""
    target = check_replaceable(job.output, (*job.inputs, job.tokenizer))
    files = maker.find_files()
    settings = maker.settings()
    inputs = input_identities(files)
    if not job.overwrite and is_made(job.output, settings | {"inputs": inputs}):
        return _say_made_before(job.output)
    start = time.monotonic()
    with staging_folder(target, maker.is_worth_keeping) as folder:
        maker.make(folder / _PARTITION_FOLDER, files, files, settings)
        partitions = PartitionSet([Partition(folder / _PARTITION_FOLDER)], settings, inputs)
        manifest = _publish(partitions, folder / "store", target)
    seconds = time.monotonic() - start
    rate = manifest.totals()["bytes"] / seconds / 1e6
    print_skipped(job.output, manifest.skipped_lines)
    print_left_out(partitions.left_out)
    if not maker.languages_are_known:  # otherwise said at the start
        print_warnings(aliases({entry.language for entry in manifest.datasets}))
    print(f"{job.output}: made in {seconds:.1f} s, {rate:.2f} MB of text a second\n{describe(manifest)}")


def preprocess_partition(job: PreprocessJob) -> None:
    """Make partition I of N (``job.partition``) of the store of ``job``, or find that it is made already.

    Raises:
        UserError: as :func:`preprocess`; fewer input files than partitions.
    """
    make_partition(job, PartitionTokenizer(job))


def make_partition(job: StoreJob, maker: PartitionMaker) -> None:
    """Make partition I of N of the store of ``job`` by ``maker``, as :func:`preprocess_partition`."""
    assert job.partition is not None
    target = check_replaceable(job.output, (*job.inputs, job.tokenizer))
    every_file = maker.find_files()
    files = partition_files(every_file, job.partition)
    # "shard": the earlier name of --partition, which partitions on disks have.
    settings = maker.settings() | {"shard": list(job.partition)}
    made_from = settings | {
        "all_inputs": inputs_digest(input_identities(every_file)),
        "inputs": input_identities(files),
    }
    name = f"{job.output}: partition {job.partition[0]} of {job.partition[1]}"
    if not job.overwrite and is_made(job.output, made_from):
        print(f"{name}, already made from these inputs, nothing to do")
        return
    with staging_folder(target, maker.is_worth_keeping) as folder:
        maker.make(folder / _PARTITION_FOLDER, files, every_file, settings)
        write_json(folder / _PARTITION_FOLDER / MADE_FROM_NAME, made_from)
        partition = Partition(folder / _PARTITION_FOLDER)
        replace_folder(folder / _PARTITION_FOLDER, target)
    print_skipped(job.output, partition.about["skipped_lines"])
    print_left_out(partition.left_out)
    print(
        f"{name}, from {len(files):,} input files, {len(partition.languages):,} languages, {partition.tokens:,} tokens"
    )


def merge(paths: Sequence[Path], output: Path, overwrite: bool = False) -> None:
    """Merge all partitions of an array of tasks into the very store that one command would have made.

    Raises:
        UserError: a partition is missing, given twice, damaged or of another store.
    """
    target = check_replaceable(output, paths)
    partitions = open_partitions(paths)
    if not overwrite and is_made(output, partitions.settings | {"inputs": partitions.inputs}):
        return _say_made_before(output)
    with staging_folder(target, lambda error: False) as folder:
        manifest = _publish(partitions, folder / "store", target)
    print_skipped(output, manifest.skipped_lines)
    print_left_out(partitions.left_out)
    print(f"{output}: merged from {len(partitions.partitions)} partitions\n{describe(manifest)}")


def _say_made_before(output: Path) -> None:
    manifest = Store.open(output).manifest
    print(f"{output}: already made from these inputs, nothing to do\n{describe(manifest)}")


def _publish(made: PartitionSet, folder: Path, output: Path) -> Manifest:
    """Cut the store from the partitions in ``folder`` and rename that to ``output``."""
    partitions, settings, inputs = made
    check_spellings(language for partition in partitions for language in partition.languages)
    remove_folder(folder)
    folder.mkdir()
    skipped = sum(partition.about["skipped_lines"] for partition in partitions)
    with ByteProgress("write store", sum(partition.about["sizes"][IDS_NAME] for partition in partitions)) as progress:
        merged = merge_partitions(
            partitions,
            folder,
            settings["source"],
            settings["shard_bytes"],
            settings.get("dedup", False),
            progress.add,
        )
    if not merged.datasets:
        rest = f", and {made.left_out} do not meet --where" if made.left_out else ""
        flag = "--text-field" if "text_field" in settings else "--tokenizer and --column"
        raise UserError(f"{inputs[0][0]}: no document left, all {skipped} lines are bad{rest}; check {flag}")
    copy_skipped([partition.path for partition in partitions], folder)
    if "max_length" in settings:
        save_splitters(folder / SENTENCES_NAME, all_splitters(partitions))
    write_json(folder / MADE_FROM_NAME, settings | {"inputs": inputs})
    first = partitions[0].about
    tokenizer = TokenizerEntry(**first["tokenizer"])
    manifest = Manifest(first["dtype"], tokenizer, merged.datasets, merged.shards, skipped, merged.duplicates)
    save_manifest(folder, manifest)
    replace_folder(folder, output)
    return manifest
