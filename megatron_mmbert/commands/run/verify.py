"""Verify a token store, a checkpoint, or all checkpoints of a phase or a run.

A store, or a partition of one: sizes, checksums, index against data, ids against the vocabulary, and with --tokenizer
that it was made with it. A checkpoint: every file against its checksum, the table of contents, and with --deep every
tensor: there, finite, of the model's shape. Nothing in PATH is run, loaded into a model, or changed.

Ends with one sentence on stderr for each problem, and with status 2 for a damaged store, 1 for a damaged checkpoint.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, UserError

EXAMPLES = """
mmbert verify store/ --tokenizer tokenizer/
mmbert verify runs/mine                                                # all phases' checkpoints
mmbert verify runs/mine/pretrain/checkpoints/step-00000100 --deep
"""
EXIT_DAMAGED = 1
_STORE_FILES = ("manifest.json", "part.json")
_EXPORT_FILES = ("config.json", "model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument(
        "path", type=Path, nargs="?", metavar="PATH", help="a store, a checkpoint, a phase's or run's folder"
    )
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="the same for checkpoints alone")
    parser.add_argument("--deep", action="store_true", help="of a checkpoint, read every tensor")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR_OR_FILE", help="check that the store was made with it")


def run(arguments: argparse.Namespace) -> int:
    """Verify what is at the path."""
    if (arguments.path is None) == (arguments.checkpoint is None):
        raise UserError("give the path of a store, a checkpoint, or a phase's or run's folder")
    if arguments.checkpoint is not None:
        return verify_checkpoints(arguments.checkpoint, arguments.deep)
    path = arguments.path
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; name a store, a checkpoint, or a phase's or run's folder")
    if any((path / name).exists() for name in _STORE_FILES):
        if arguments.deep:
            raise UserError(f"{path}: a token store, which is always read whole; leave out --deep")
        return verify_store(path, arguments.tokenizer)
    kind = unsupported_kind(path)
    if kind is not None:
        raise UserError(f"{path}: {kind}, and only stores and checkpoints can be verified so far")
    if arguments.tokenizer is not None:
        raise UserError(f"{path}: no token store here, and --tokenizer is for one; name a store or leave it out")
    return verify_checkpoints(path, arguments.deep)


def unsupported_kind(path: Path) -> str | None:
    """Return what ``path`` is if it is an exported model or a tokenizer; None otherwise."""
    if any((path / name).exists() for name in _EXPORT_FILES):
        return "an exported model"
    if path.name in _TOKENIZER_FILES or path.suffix == ".model" or any((path / n).exists() for n in _TOKENIZER_FILES):
        return "a tokenizer"
    return None


def verify_store(path: Path, tokenizer: Path | None) -> int:
    """Check a store or a partition of one, and print what it holds; returns the exit status."""
    from megatron_mmbert.data.preprocess.partition_reader import verify_partition
    from megatron_mmbert.data.preprocess.partition_writer import IDS_NAME, PARTITION_NAME
    from megatron_mmbert.data.store import verify
    from megatron_mmbert.data.store.manifest import describe, load_manifest
    from megatron_mmbert.tokenizer.load import load_tokenizer
    from megatron_mmbert.utils.progress import ByteProgress

    if (path / PARTITION_NAME).exists():
        manifest, size = None, (path / IDS_NAME).stat().st_size
    else:
        manifest = load_manifest(path)
        size = sum(shard.bin_bytes for shard in manifest.shards)
    fingerprint = load_tokenizer(tokenizer).fingerprint() if tokenizer else None
    count = 0
    with ByteProgress("verify", size) as progress:
        if manifest:
            problems = verify.verify_store(path, fingerprint, progress.add)
        else:
            problems = verify_partition(path, progress.add)
        for problem in problems:
            print(f"error: {problem}", file=sys.stderr, flush=True)
            count += 1
    if count:
        return EXIT_BAD_INPUT
    print(f"{path}: OK\n{describe(manifest)}" if manifest else f"{path}: OK, to be merged")
    return 0


def verify_checkpoints(path: Path, deep: bool) -> int:
    """Check the checkpoints that ``path`` means, and print a table; returns the exit status."""
    from megatron_mmbert.checkpoint.verify import find_checkpoints, results_table, size_of, verify
    from megatron_mmbert.utils.progress import ByteProgress

    paths = find_checkpoints(path)
    if deep:
        from megatron_mmbert import parallel

        parallel.enable_cpu_mode()
        parallel.start()
    total = sum(size_of(each)[1] for each in paths) * (2 if deep else 1)
    with ByteProgress("verify", total) as progress:
        results = [verify(each, deep, progress.add) for each in paths]
    print(results_table(results))
    for problem in (problem for result in results for problem in result.checksum_problems):
        print(f"error: {problem}", file=sys.stderr)
    return 0 if all(result.is_valid for result in results) else EXIT_DAMAGED
