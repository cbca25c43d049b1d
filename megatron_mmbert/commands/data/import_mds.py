"""Turn MDS shards of token ids, as mmBERT's published data, into a token store, without tokenizing again.

A document is what lies between `<bos>` and `<eos>`; they and `<pad>` are taken out, as in every store. Source and
language come from the names of folders (`SOURCE/fao_Latn/.../index.json`). Ids are checked against the tokenizer,
hashes against `index.json` if it has any; pickled columns are refused. Killed and started again, it resumes after the
last shard that it finished; many machines share the work as in `mmbert preprocess`.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Whole, add_output
from megatron_mmbert.commands.store_jobs import partition_of, run_store_job
from megatron_mmbert.data.text.inputs.splits import SPLITS
from megatron_mmbert.utils.bounds import MAX_DOCUMENT_BYTES, MAX_PROCESSES
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.data.mds.job import ImportJob

EXAMPLES = """
mmbert import-mds --input mmBERT-decay-data/train --language-of "dclm*=eng_Latn" --tokenizer gemma2/ --output store/
mmbert import-mds --input shards/ --source web --language fao_Latn --tokenizer tokenizer/ --output store/
mmbert import-mds --input train/ --tokenizer gemma2/ --output parts/$I --partition $I/100
mmbert import-mds --merge parts/* --output store/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add("--input", nargs="+", type=Path, metavar="DIR", help="folders with an index.json in or below them")
    add("--tokenizer", type=Path, metavar="DIR_OR_FILE", help="the one that made the ids")
    add_output(parser, "STORE")
    help_workers = "processes; changes nothing in the store"
    add("--workers", type=Whole(1, MAX_PROCESSES), default=os.cpu_count() or 1, help=help_workers)
    help_source = "source of all documents (default: the folder above the language's or the shards')"
    add("--source", metavar="NAME", help=help_source)
    add("--language", metavar="CODE", help="language of all documents (default: the code in a folder's name)")
    help_of = "language of a source's documents; * in the source stands for any letters"
    add("--language-of", nargs="+", default=[], metavar="SOURCE=CODE", help=help_of)
    help_split = "parts to read, by the names of folders (default: train)"
    add("--split", nargs="+", choices=SPLITS, metavar="NAME", help=f"{help_split}; of {', '.join(SPLITS)}")
    add("--column", default="input_ids", metavar="NAME", help="the column with the ids (default: %(default)s)")
    add("--id-type", metavar="TYPE", help="type of the ids in a column of bare bytes, such as int64")
    add(
        "--documents",
        choices=("marked", "cut", "samples"),
        default="marked",
        help="what a document is: what lies between <bos> and <eos>, of which every sample must have one (marked); the "
        "same, a sample without them being a document (cut); a sample, which has them only at its ends (samples)",
    )
    add("--skip-bad", action="store_true", help="count and list bad samples and shards instead of stopping")
    add("--shard-bytes", type=Whole(1), metavar="N", help="size of a shard of the store (default: 2 GiB)")
    help_bytes = "longer samples are bad (default: 16 MiB)"
    add("--max-sample-bytes", type=Whole(1, MAX_DOCUMENT_BYTES), metavar="N", help=help_bytes)
    add("--partition", metavar="I/N", help="make only partition I (from 1) of N, of whole shards")
    add("--merge", nargs="+", type=Path, metavar="PARTITION", help="make the store of all partitions instead")


def languages_of(texts: list[str]) -> tuple[tuple[str, str], ...]:
    """Return ``SOURCE=CODE`` as pairs.

    Raises:
        UserError: one is not of this form.
    """
    pairs = []
    for text in texts:
        source, equals, code = text.rpartition("=")
        if not (source and equals and code):
            raise UserError(f"--language-of {text!r}: give SOURCE=CODE, such as dclm=eng_Latn")
        pairs.append((source, code))
    return tuple(pairs)


def job_of(arguments: argparse.Namespace) -> ImportJob:
    """Return the job that the command line asks for.

    Raises:
        UserError: an argument is out of its range, or does not go with another.
    """
    from megatron_mmbert.data.mds.discover import Naming
    from megatron_mmbert.data.mds.job import MAX_SAMPLE_BYTES, ImportJob
    from megatron_mmbert.data.store.writer import SHARD_BYTES

    return ImportJob(
        inputs=tuple(arguments.input),
        tokenizer=arguments.tokenizer,
        output=arguments.output,
        naming=Naming(arguments.source, arguments.language, languages_of(arguments.language_of)),
        splits=tuple(arguments.split) if arguments.split else None,
        column=arguments.column,
        id_type=arguments.id_type,
        documents=arguments.documents,
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        shard_bytes=SHARD_BYTES if arguments.shard_bytes is None else arguments.shard_bytes,
        max_sample_bytes=MAX_SAMPLE_BYTES if arguments.max_sample_bytes is None else arguments.max_sample_bytes,
        partition=partition_of(arguments.partition) if arguments.partition else None,
    )


def run(arguments: argparse.Namespace) -> None:
    """Make a store or a partition of one, or merge partitions into a store."""
    from megatron_mmbert.data.mds.importing import ShardImporter

    run_store_job(arguments, add_arguments, job_of, ShardImporter)
