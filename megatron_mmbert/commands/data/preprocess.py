"""Turn text files into a token store, a folder of Megatron's .bin and .idx files and a manifest.

Killed and started again, it resumes after the last input file that it finished; run again when all is done, it finds
that there is nothing to do. Many machines share the work as an array of tasks, each making one partition of the input
files, and one command merges the partitions into the very same store (see the examples).
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Whole, add_output, add_renamed
from megatron_mmbert.commands.inputs import add_inputs, add_languages, input_options
from megatron_mmbert.commands.store_jobs import partition_of, run_store_job
from megatron_mmbert.utils.bounds import MAX_LENGTH, MAX_PROCESSES
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.data.preprocess.job import PreprocessJob

EXAMPLES = """
mmbert preprocess --input corpus/ --tokenizer tokenizer/ --output store/ --workers 8
mmbert preprocess --input fineweb-2/data --where "language_score >= 0.9" --tokenizer tokenizer/ --output store/
mmbert preprocess --input starcoderdata/ --language code --text-field content --tokenizer tokenizer/ --output store/
mmbert preprocess --input corpus/ --tokenizer tokenizer/ --output parts/$I --partition $I/100
mmbert preprocess --merge parts/* --output store/
"""
DEFAULT_MAX_LENGTH = 8192


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add_inputs(parser, required=False)
    add("--tokenizer", type=Path, metavar="DIR_OR_FILE")
    add_output(parser, "STORE")
    add(
        "--workers",
        type=Whole(1, MAX_PROCESSES),
        default=os.cpu_count() or 1,
        help="processes; changes nothing in the store",
    )
    add("--source", default="corpus", metavar="NAME", help="name of this corpus in recipes (default: %(default)s)")
    add_languages(parser)
    add("--skip-bad", action="store_true", help="count and list lines without a document instead of stopping")
    add("--shard-bytes", type=Whole(1), metavar="N", help="size of a shard (default: 2 GiB)")
    add("--dedup", action="store_true", help="keep the first of equal texts of a language; counted in the manifest")
    add("--split-sentences", action="store_true", help="cut long documents at sentence ends, learned here")
    help_length = "cut those of more tokens than a sample of N holds (default: 8192)"
    add("--max-length", type=Whole(1, MAX_LENGTH), metavar="N", help=help_length)
    help_partition = "make only partition I (from 1) of N, of whole input files"
    add_renamed(parser, "--shard", "--partition", metavar="I/N", help=help_partition)
    add("--merge", nargs="+", type=Path, metavar="PARTITION", help="make the store of all partitions instead")


def job_of(arguments: argparse.Namespace) -> PreprocessJob:
    """Return the job that the command line asks for.

    Raises:
        UserError: an argument is out of its range, or does not go with another.
    """
    from megatron_mmbert.data.preprocess.job import PreprocessJob
    from megatron_mmbert.data.store.writer import SHARD_BYTES

    if arguments.max_length is not None and not arguments.split_sentences:
        raise UserError(f"--max-length {arguments.max_length}: needs --split-sentences")
    max_length = DEFAULT_MAX_LENGTH if arguments.max_length is None else arguments.max_length
    options = input_options(arguments)
    return PreprocessJob(
        inputs=tuple(arguments.input),
        tokenizer=arguments.tokenizer,
        output=arguments.output,
        source=arguments.source,
        language=options.language,
        language_from=options.language_from,
        splits=options.splits,
        fields=options.fields,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        shard_bytes=SHARD_BYTES if arguments.shard_bytes is None else arguments.shard_bytes,
        dedup=arguments.dedup,
        max_line_bytes=options.max_line_bytes,
        max_length=max_length if arguments.split_sentences else None,
        partition=partition_of(arguments.partition) if arguments.partition else None,
    )


def run(arguments: argparse.Namespace) -> None:
    """Make a store or a partition of one, or merge partitions into a store."""
    from megatron_mmbert.data.preprocess.tokenize_partition import PartitionTokenizer

    run_store_job(arguments, add_arguments, job_of, PartitionTokenizer)
