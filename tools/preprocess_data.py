"""Text files to a token store.

    python tools/preprocess_data.py --input corpus/ --tokenizer tokenizer/ --output store/ --workers 8

Killed and started again, it resumes after the last input file that it finished. Many machines share the work as an
array of tasks, each making one partition of the input files, and one command merges them into the very same store:

    python tools/preprocess_data.py --input corpus/ --tokenizer tokenizer/ --output parts/$I --partition $I/100
    python tools/preprocess_data.py --merge parts/* --output store/
"""

from __future__ import annotations

import argparse
import os
import signal
from pathlib import Path

from megatron_mmbert.data.preprocess.run import PreprocessJob, merge, preprocess, preprocess_partition
from megatron_mmbert.data.store.writer import SHARD_BYTES
from megatron_mmbert.data.text.formats import ENDINGS
from megatron_mmbert.data.text.records import MAX_LINE_BYTES, Fields, is_language
from megatron_mmbert.utils.errors import UserError, run_command


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--input", nargs="+", type=Path, metavar="PATH", help=f"files ({', '.join(ENDINGS)}) or folders")
    add("--tokenizer", type=Path, metavar="DIR_OR_FILE")
    add("--output", type=Path, required=True, metavar="STORE")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes; changes nothing in the store")
    add("--source", default="corpus", metavar="NAME", help="name of this corpus in recipes (default: %(default)s)")
    add("--language", metavar="CODE", help="language of all documents (default: FILE's name before its first dot)")
    add("--language-field", metavar="FIELD", help="field of each line that names its language")
    add("--text-field", default="text", metavar="FIELD", help="field of each line with the text (default: %(default)s)")
    add("--skip-bad", action="store_true", help="count and list lines without a document instead of stopping")
    add("--overwrite", action="store_true", help="replace an existing store")
    add("--shard-bytes", type=int, default=SHARD_BYTES, metavar="N", help="size of a shard (default: %(default)s)")
    add("--dedup", action="store_true", help="keep the first of equal texts of a language; counted in the manifest")
    add("--max-line-bytes", type=int, default=MAX_LINE_BYTES, metavar="N", help="longer is bad (default: %(default)s)")
    add(
        "--split-sentences",
        action="store_true",
        help="cut long documents at sentence ends, learned here",
    )
    add("--max-length", type=int, metavar="N", help="cut those of more tokens than a sample of N holds (default: 8192)")
    add(
        "--partition",
        "--shard",
        metavar="I/N",
        help="make only partition I (from 1) of N, of whole input files; --shard is its earlier name",
    )
    add("--merge", nargs="+", type=Path, metavar="PARTITION", help="make the store of all partitions instead")
    return parser.parse_args()


def partition_of(text: str) -> tuple[int, int]:
    """Parse ``I/N`` as two numbers."""
    index, _, count = text.partition("/")
    if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise UserError(f"--partition {text!r}: give I/N with I from 1 to N, such as 1/8")
    return int(index), int(count)


def check(arguments: argparse.Namespace) -> None:
    """Refuse values that argparse lets through."""
    if arguments.merge and (arguments.input or arguments.tokenizer or arguments.partition):
        raise UserError("--merge takes finished partitions and only --output and --overwrite beside them")
    if not arguments.merge and not (arguments.input and arguments.tokenizer):
        raise UserError("give --input and --tokenizer, or --merge with the partitions of a store")
    for option in ("workers", "shard_bytes", "max_line_bytes", "max_length"):
        value = getattr(arguments, option)
        if value is not None and value < 1:
            raise UserError(f"--{option.replace('_', '-')} {value}: give a number of at least 1")
    for option in ("source", "language"):
        value = getattr(arguments, option)
        if value is not None and not is_language(value):
            raise UserError(f"--{option} {value!r}: give a name of printable characters without spaces")
    if arguments.max_length is not None and (not arguments.split_sentences or arguments.max_length < 16):
        raise UserError(f"--max-length {arguments.max_length}: needs --split-sentences, and 16 tokens or more")
    if arguments.language and arguments.language_field:
        raise UserError("--language and --language-field exclude each other; give one of them")


def job_of(arguments: argparse.Namespace) -> PreprocessJob:
    return PreprocessJob(
        inputs=tuple(arguments.input),
        tokenizer=arguments.tokenizer,
        output=arguments.output,
        source=arguments.source,
        language=arguments.language,
        fields=Fields(arguments.text_field, arguments.language_field),
        skip_bad=arguments.skip_bad,
        overwrite=arguments.overwrite,
        workers=arguments.workers,
        shard_bytes=arguments.shard_bytes,
        dedup=arguments.dedup,
        max_line_bytes=arguments.max_line_bytes,
        max_length=(arguments.max_length or 8192) if arguments.split_sentences else None,
        partition=partition_of(arguments.partition) if arguments.partition else None,
    )


def main() -> None:
    arguments = parse()
    check(arguments)
    # A cluster's scheduler ends a job with SIGTERM: clean up as after Ctrl-C.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        if arguments.merge:
            merge(arguments.merge, arguments.output, arguments.overwrite)
        else:
            job = job_of(arguments)
            preprocess_partition(job) if job.partition else preprocess(job)
    except OSError as error:
        raise UserError(f"{error.filename or arguments.output}: {error.strerror or error}; check the disk") from error


if __name__ == "__main__":
    run_command(main)
