"""Verify token stores, checkpoints, exported models, tokenizers, and all of these in a phase's or run's folder.

A store, or a partition of one: sizes, checksums, index against data, ids against the vocabulary. A checkpoint: every
file against its checksum, the table of contents. An exported model: every file against checksums.json, configuration
and tokenizer against identity.json, tensors against the configuration. A tokenizer: its checksums, that it loads, that
both its files give the same ids. With --deep also every tensor of checkpoints and models: there, finite, of the model's
shape; with --tokenizer also that each was made with it. Nothing in PATH is run or changed.

Ends with one sentence on stderr for each problem, and with status 2 if there is one.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path

from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, UserError

EXAMPLES = """
mmbert verify store/ tokenizer/ --tokenizer tokenizer/
mmbert verify runs/mine                                   # checkpoints of all phases, merged and exported models
mmbert verify runs/mine/hf --deep
"""
_NAMES = "a store, a checkpoint, an exported model, a tokenizer, or a phase's or run's folder"
_STORE_FILES = ("manifest.json", "part.json")
_EXPORT_FILES = (
    *("config.json", "model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("path", type=Path, nargs="*", metavar="PATH", help=_NAMES)
    parser.add_argument("--checkpoint", type=Path, metavar="PATH", help="the same for checkpoints alone")
    parser.add_argument("--deep", action="store_true", help="of checkpoints and models, read every tensor")
    parser.add_argument("--tokenizer", type=Path, metavar="DIR_OR_FILE", help="check that all were made with it")


def run(arguments: argparse.Namespace) -> int:
    """Verify what is at each path; returns the exit status."""
    if bool(arguments.path) == (arguments.checkpoint is not None):
        raise UserError(f"give the path of {_NAMES}")
    if arguments.checkpoint is not None:
        return EXIT_BAD_INPUT if verify_checkpoints(arguments.checkpoint, arguments.deep, None) else 0
    for path in arguments.path:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; name {_NAMES}")
    wanted = None
    if arguments.tokenizer is not None:
        from megatron_mmbert.tokenizer.load import load_tokenizer

        wanted = load_tokenizer(arguments.tokenizer).fingerprint()
    problems = sum(verify_path(path, arguments.deep, wanted) for path in arguments.path)
    return EXIT_BAD_INPUT if problems else 0


def verify_path(path: Path, deep: bool, wanted: str | None) -> int:
    """Verify what is at ``path`` and, in a run's folder, in the folders of it; returns the number of problems.

    Args:
        wanted: the fingerprint of the tokenizer that all must have been made with; None for any.
    """
    kind = kind_of(path)
    if kind is None and path.is_dir():
        inside = [child for child in sorted(path.iterdir()) if kind_of(child) not in (None, "checkpoint")]
        count = sum(verify_path(child, deep, wanted) for child in inside)
        if inside and not _has_checkpoints(path):
            return count
        return count + verify_checkpoints(path, deep, wanted)
    if kind == "store":
        return verify_store(path, wanted)
    if kind == "export":
        return verify_export(path, deep, wanted)
    return verify_tokenizer(path, wanted) if kind == "tokenizer" else verify_checkpoints(path, deep, wanted)


def kind_of(path: Path) -> str | None:
    """Return what ``path`` is by the files in it: store, checkpoint, export or tokenizer; None for anything else."""
    if any((path / name).exists() for name in _STORE_FILES):
        return "store"
    if (path / "checkpoint.json").exists() or any(path.glob("*.distcp")):
        return "checkpoint"
    if any((path / name).exists() for name in _EXPORT_FILES) or any(path.glob("model-*.safetensors")):
        return "export"
    if path.name in _TOKENIZER_FILES or path.suffix == ".model" or any((path / n).exists() for n in _TOKENIZER_FILES):
        return "tokenizer"
    return None


def verify_store(path: Path, wanted: str | None) -> int:
    """Check a store or a partition of one, and print what it holds; returns the number of problems."""
    from megatron_mmbert.data.preprocess.partition_reader import verify_partition
    from megatron_mmbert.data.preprocess.partition_writer import IDS_NAME, PARTITION_NAME
    from megatron_mmbert.data.store import verify
    from megatron_mmbert.data.store.manifest import describe, load_manifest
    from megatron_mmbert.utils.progress import ByteProgress

    if (path / PARTITION_NAME).exists():
        manifest, size = None, (path / IDS_NAME).stat().st_size
    else:
        manifest = load_manifest(path)
        size = sum(shard.bin_bytes for shard in manifest.shards)
    with ByteProgress("verify", size) as progress:
        if manifest:
            count = _print_all(verify.verify_store(path, wanted, progress.add))
        else:
            count = _print_all(verify_partition(path, progress.add))
    if not count:
        print(f"{path}: OK\n{describe(manifest)}" if manifest else f"{path}: OK, to be merged")
    return count


def verify_export(path: Path, deep: bool, wanted: str | None) -> int:
    """Check an exported model, and say whether it is whole; returns the number of problems."""
    from megatron_mmbert.checkpoint.verify import size_of
    from megatron_mmbert.convert.verify_hf import verify_export as problems_of
    from megatron_mmbert.utils.checksums import CHECKSUM_FILE
    from megatron_mmbert.utils.progress import ByteProgress

    files, size = size_of(path)
    with ByteProgress("verify", size) as progress:
        count = _print_all(problems_of(path, deep, wanted, progress.add))
    if not count:
        compared = "" if (path / CHECKSUM_FILE).exists() else f"; no {CHECKSUM_FILE} in it to compare the bytes with"
        print(f"{path}: OK, a model of {files} files, {size / 1e6:,.1f} MB{compared}")
    return count


def verify_tokenizer(path: Path, wanted: str | None) -> int:
    """Check a tokenizer's folder or file, and say what it is; returns the number of problems."""
    from megatron_mmbert.tokenizer.load import load_tokenizer
    from megatron_mmbert.tokenizer.verify import verify_tokenizer as problems_of

    count = _print_all(problems_of(path, wanted))
    if not count:
        tokenizer = load_tokenizer(path)
        print(f"{path}: OK, {tokenizer.vocab_size:,} ids, fingerprint {tokenizer.fingerprint()[:12]}")
    return count


def verify_checkpoints(path: Path, deep: bool, wanted: str | None) -> int:
    """Check the checkpoints that ``path`` means, and print a table; returns the number of problems."""
    from megatron_mmbert.checkpoint.verify import find_checkpoints, results_table, size_of, verify
    from megatron_mmbert.utils.progress import ByteProgress

    paths = find_checkpoints(path)
    if deep:
        from megatron_mmbert import parallel

        parallel.enable_cpu_mode()
        parallel.start()
    total = sum(size_of(each)[1] for each in paths) * (2 if deep else 1)
    with ByteProgress("verify", total) as progress:
        results = [verify(each, deep, progress.add, wanted) for each in paths]
    print(results_table(results))
    return _print_all(problem for result in results for problem in result.checksum_problems)


def _has_checkpoints(path: Path) -> bool:
    from megatron_mmbert.checkpoint.verify import find_checkpoints

    try:
        return bool(find_checkpoints(path))
    except UserError:
        return False


def _print_all(problems: Iterable[str]) -> int:
    """Print each problem when it is found; returns their number."""
    count = 0
    for problem in problems:
        print(f"error: {problem}", file=sys.stderr, flush=True)
        count += 1
    return count
