"""Set held-out text aside, per language, before anything is trained.

Writes DIR/train and DIR/heldout, to be preprocessed into two stores. Reads what `mmbert preprocess` reads, by the same
arguments, and keeps of each document its id and text; with --language-field it needs disk for one more copy of them.
"""

from __future__ import annotations

import argparse

from megatron_mmbert.commands.arguments import Real, add_output, add_renamed, count
from megatron_mmbert.commands.inputs import add_inputs, add_languages, input_options

EXAMPLES = """
mmbert split-heldout --input corpus/ --output split/ --share 0.05
mmbert split-heldout --input fineweb-2/data --where "language_score >= 0.9" --rehydrate --output split/
mmbert split-heldout --input mixed/ --language-field lang --output split/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_inputs(parser)
    add_languages(parser)
    add_output(parser)
    parser.add_argument(
        "--share", type=Real(0, 1, above=True), default=0.05, help="of each language's bytes (default: %(default)s)"
    )
    add_renamed(
        parser, "--most-bytes", "--max-bytes", type=count, default=200_000, metavar="N", help="per language (200k)"
    )
    parser.add_argument("--skip-bad", action="store_true", help="leave out lines without text, count and list them")


def run(arguments: argparse.Namespace) -> None:
    """Split, and say how much text went where."""
    from megatron_mmbert.data.text.heldout_split import split_files

    options = input_options(arguments)
    where = (arguments.input, arguments.output)
    how_much = (arguments.share, arguments.max_bytes)
    print(split_files(*where, *how_much, arguments.overwrite, options, arguments.skip_bad))
