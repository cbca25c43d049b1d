"""Text to a token store, with any number of workers, kills and array tasks, to the same bytes.

Input files are taken in the order (language, path); a pool encodes chunks of their lines and hands them back in order;
a partition on the disk takes them (``partition_writer``); from partitions ``merge_partitions`` cuts the store, which a
rename publishes.
A killed command goes on behind the last input file that it finished. Beside the manifest lies ``made_from.json``, which
says from what: the same command run again finds that there is nothing to do.

    python tools/preprocess_data.py --input corpus/ --tokenizer tokenizer/ --output store/ --workers 8
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megatron_mmbert.data.preprocess.job import PreprocessJob, digest, identity, input_files, made_from, share
from megatron_mmbert.data.preprocess.merge_partitions import merge_partitions
from megatron_mmbert.data.preprocess.output_folder import (
    MADE_FROM_NAME,
    check_replaceable,
    copy_skipped,
    is_done,
    print_skipped,
)
from megatron_mmbert.data.preprocess.partition_reader import Partition
from megatron_mmbert.data.preprocess.partition_writer import IDS_NAME, Input
from megatron_mmbert.data.preprocess.tokenize_partition import PartitionTokenizer, load_any_tokenizer
from megatron_mmbert.data.preprocess.working_folder import working_folder
from megatron_mmbert.data.store.manifest import REMEDY, Manifest, TokenizerEntry, save_manifest
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.summary import describe
from megatron_mmbert.data.text import sentence_splitter
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json, replace_folder, write_json
from megatron_mmbert.utils.progress import ByteProgress

__all__ = ["PreprocessJob", "load_any_tokenizer", "merge", "preprocess", "preprocess_part"]


def preprocess(job: PreprocessJob) -> Store:
    """Make the store of ``job``, or find that it is made already; says on stdout what there is.

    Raises:
        UserError: bad arguments or input, or the output exists and is something else.
    """
    files = input_files(job)
    tokenizer = load_any_tokenizer(job.tokenizer)
    about = made_from(job, tokenizer)
    inputs = identity(files)
    if not job.overwrite and is_done(job.output, about | {"inputs": inputs}):
        return _already(job.output)
    check_replaceable(job.output)
    start = time.monotonic()
    filling = PartitionTokenizer()
    with working_folder(job.output, filling.keep) as folder:
        filling.fill(folder / "part", job, files, files, about)
        manifest = _publish([Partition(folder / "part")], folder / "store", job.output, about, inputs)
    seconds = time.monotonic() - start
    rate = manifest.totals()["bytes"] / seconds / 1e6
    print_skipped(job.output, manifest.skipped_lines)
    print(f"{job.output}: made in {seconds:.1f} s, {rate:.2f} MB of text a second\n{describe(manifest)}")
    return Store.open(job.output)


def preprocess_part(job: PreprocessJob) -> Partition:
    """Make part I of N (``job.shard``) of the store of ``job``, or find that it is made already.

    Raises:
        UserError: as :func:`preprocess`; fewer input files than parts.
    """
    assert job.shard is not None
    every_file = input_files(job)
    files = share(every_file, job.shard)
    tokenizer = load_any_tokenizer(job.tokenizer)
    about = made_from(job, tokenizer) | {"shard": list(job.shard)}
    described = about | {"all_inputs": digest(identity(every_file)), "inputs": identity(files)}
    name = f"{job.output}: part {job.shard[0]} of {job.shard[1]}"
    if not job.overwrite and is_done(job.output, described):
        print(f"{name}, already made from these inputs, nothing to do")
        return Partition(job.output)
    check_replaceable(job.output)
    filling = PartitionTokenizer()
    with working_folder(job.output, filling.keep) as folder:
        filling.fill(folder / "part", job, files, every_file, about)
        write_json(folder / "part" / MADE_FROM_NAME, described)
        replace_folder(folder / "part", job.output)
    part = Partition(job.output)
    print_skipped(job.output, part.about["skipped_lines"])
    print(f"{name}, from {len(files):,} input files, {len(part.languages):,} languages, {part.tokens:,} tokens")
    return part


def merge(paths: Sequence[Path], output: Path, overwrite: bool = False) -> Store:
    """One store from all parts of an array of tasks: the very store that one command would have made.

    Raises:
        UserError: a part is missing, given twice, damaged or of another store.
    """
    parts, about, inputs = _all_parts(paths)
    if not overwrite and is_done(output, about | {"inputs": inputs}):
        return _already(output)
    check_replaceable(output)
    with working_folder(output, lambda error: False) as folder:
        manifest = _publish(parts, folder / "store", output, about, inputs)
    print_skipped(output, manifest.skipped_lines)
    print(f"{output}: merged from {len(parts)} parts\n{describe(manifest)}")
    return Store.open(output)


def _already(output: Path) -> Store:
    store = Store.open(output)
    print(f"{output}: already made from these inputs, nothing to do\n{describe(store.manifest)}")
    return store


def _all_parts(paths: Sequence[Path]) -> tuple[list[Partition], dict[str, Any], list[Input]]:
    """The parts in their order, what their store depends on, and all its inputs."""
    found: dict[int, tuple[Partition, dict[str, Any]]] = {}
    shared: dict[str, Any] = {}
    for path in paths:
        part = Partition(path)
        described = read_json(path / MADE_FROM_NAME, "record of the inputs", REMEDY)
        number, count = described.pop("shard")
        same = {key: value for key, value in described.items() if key != "inputs"} | {"parts": count}
        shared = shared or same
        if same != shared:
            other = ", ".join(sorted(k for k in same.keys() | shared.keys() if same.get(k) != shared.get(k)))
            raise UserError(f"{path}: of another store than {paths[0]} (other {other}); give the parts of one store")
        if number in found:
            raise UserError(f"{path}: part {number} of {count} again, as {found[number][0].path}; give each part once")
        found[number] = part, described
    missing = [number for number in range(1, shared["parts"] + 1) if number not in found]
    if missing:
        raise UserError(
            f"{paths[0].parent}: part {missing[0]} of {shared['parts']} is missing; make it, or name it too"
        )
    ordered = [found[number] for number in sorted(found)]
    inputs = [one for _, described in ordered for one in described["inputs"]]
    if digest(inputs) != shared["all_inputs"]:
        raise UserError(f"{paths[0]}: its input files changed while the parts were made; make all parts again")
    about = {key: value for key, value in shared.items() if key not in ("parts", "all_inputs")}
    return [part for part, _ in ordered], about, inputs


def _all_sentences(parts: list[Partition]) -> dict[str, sentence_splitter.TrainedSplitter]:
    """What was learned of all languages; parts that share one have learned the same."""
    languages: dict[str, sentence_splitter.TrainedSplitter] = {}
    for part in parts:
        for language, learned in sentence_splitter.load(part.path / sentence_splitter.SENTENCES_NAME).items():
            if languages.setdefault(language, learned) != learned:
                raise UserError(f"{part.path}: sentences of {language} learned from other text; make all parts again")
    return languages


def _publish(
    parts: list[Partition], folder: Path, output: Path, about: dict[str, Any], inputs: list[Input]
) -> Manifest:
    """Cut the store from ``parts`` in ``folder`` and rename that to ``output``."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    skipped = sum(part.about["skipped_lines"] for part in parts)
    with ByteProgress("write store", sum(part.about["sizes"][IDS_NAME] for part in parts)) as progress:
        made = merge_partitions(
            parts, folder, about["source"], about["shard_bytes"], about.get("dedup", False), progress.add
        )
    if not made.groups:
        raise UserError(f"{inputs[0][0]}: no document left, all {skipped} lines are bad; check --text-field")
    copy_skipped([part.path for part in parts], folder)
    if "max_length" in about:
        sentence_splitter.save(folder / sentence_splitter.SENTENCES_NAME, _all_sentences(parts))
    write_json(folder / MADE_FROM_NAME, about | {"inputs": inputs})
    first = parts[0].about
    tokenizer = TokenizerEntry(**first["tokenizer"])
    manifest = Manifest(first["dtype"], tokenizer, made.groups, made.shards, skipped, made.duplicates)
    save_manifest(folder, manifest)
    replace_folder(folder, output)
    return manifest
