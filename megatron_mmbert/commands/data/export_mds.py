"""Write a token store as MDS shards, to train elsewhere: the columns of mmBERT's data (`id`, `input_ids`, `len`).

Each source and language has a folder with its `index.json`; the one in DIR lists all shards. Every document is a sample
with `<bos>` and `<eos>` at its ends.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import Whole, add_output
from megatron_mmbert.utils.bounds import MAX_LENGTH

EXAMPLES = """
mmbert export-mds store/ --tokenizer tokenizer/ --output mds/
mmbert export-mds store/ --tokenizer tokenizer/ --output mds/ --languages fao_Latn isl_Latn --compression zstd
mmbert export-mds store/ --tokenizer tokenizer/ --output mds/ --max-length 1024
"""
_MAX_SHARD_BYTES = 128 << 20  # one is in memory as a whole
_MIN_LENGTH = 16


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("store", type=Path, metavar="STORE")
    add("--tokenizer", type=Path, required=True, metavar="DIR_OR_FILE", help="the one that made the store")
    add_output(parser)
    add("--sources", nargs="+", metavar="NAME", help="write only these (default: all)")
    add("--languages", nargs="+", metavar="CODE", help="write only these (default: all)")
    add("--compression", choices=("zstd",), help="compress each shard (default: none)")
    help_bytes = "limit of a shard before compression (default: 64 MiB)"
    add("--shard-bytes", type=Whole(1024, _MAX_SHARD_BYTES), metavar="N", help=help_bytes)
    help_length = "cut documents into samples of at most N ids, <bos> and <eos> included (default: whole documents)"
    add("--max-length", type=Whole(_MIN_LENGTH, MAX_LENGTH), metavar="N", help=help_length)


def run(arguments: argparse.Namespace) -> None:
    """Write the shards."""
    from megatron_mmbert.data.mds.exporting import ExportJob, export_mds
    from megatron_mmbert.data.mds.writer import SHARD_BYTES

    export_mds(
        ExportJob(
            store=arguments.store,
            tokenizer=arguments.tokenizer,
            output=arguments.output,
            sources=tuple(arguments.sources) if arguments.sources else None,
            languages=tuple(arguments.languages) if arguments.languages else None,
            compression=arguments.compression,
            shard_bytes=SHARD_BYTES if arguments.shard_bytes is None else arguments.shard_bytes,
            max_length=arguments.max_length,
            overwrite=arguments.overwrite,
        )
    )
