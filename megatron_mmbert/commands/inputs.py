"""Arguments of the commands that read a corpus: its files, their languages, and what is taken of it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Whole
from megatron_mmbert.data.text.conditions import parse_conditions
from megatron_mmbert.data.text.formats import described_endings
from megatron_mmbert.data.text.inputs.splits import SPLITS
from megatron_mmbert.data.text.records import MAX_LINE_BYTES, Fields
from megatron_mmbert.utils.bounds import MAX_DOCUMENT_BYTES

if TYPE_CHECKING:
    from megatron_mmbert.data.text.inputs.discover import InputOptions


def add_inputs(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """Add ``--input``, ``--text-field`` and ``--split``."""
    add = parser.add_argument
    help_input = f"files ({described_endings()}) or folders, links followed"
    add("--input", nargs="+", type=Path, required=required, metavar="PATH", help=help_input)
    add("--text-field", default="text", metavar="FIELD", help="field of each line with the text (default: %(default)s)")
    help_split = "parts of a published corpus to read, by the names of its folders and files (default: train)"
    add("--split", nargs="+", choices=SPLITS, metavar="NAME", help=f"{help_split}; of {', '.join(SPLITS)}")


def add_languages(parser: argparse.ArgumentParser, copies: bool = True) -> None:
    """Add the flags that name languages, and those that take some documents; ``copies``: also ``--rehydrate``."""
    add = parser.add_argument
    add("--language", metavar="CODE", help="language of all documents (default: the code in a file's or folder's name)")
    add(
        "--language-field",
        metavar="FIELD",
        help="field of each line that names its language; A+B joins two (fao_Latn)",
    )
    help_from = "take the names of files or of their folders as languages, also those that are no codes"
    add("--language-from", choices=("folder", "file"), help=help_from)
    help_where = "take only documents whose fields are so: \"language_score >= 0.9 and dump != 'x'\""
    add("--where", metavar="CONDITION", help=help_where)
    help_line = "longer is bad (default: %(default)s; at most 1 GiB)"
    add("--max-line-bytes", type=Whole(1, MAX_DOCUMENT_BYTES), default=MAX_LINE_BYTES, metavar="N", help=help_line)
    if copies:
        help_copies = "repeat documents to train on as FineWeb2 says, by their minhash_cluster_size"
        add("--rehydrate", action="store_true", help=help_copies)
    else:
        parser.set_defaults(rehydrate=False)


def input_options(arguments: argparse.Namespace) -> InputOptions:
    """Return what the flags of this module say.

    Raises:
        UserError: a flag's value is not understood, or excludes another's.
    """
    from megatron_mmbert.data.text.inputs.discover import InputOptions

    where = parse_conditions(arguments.where) if arguments.where is not None else ()
    return InputOptions(
        Fields(arguments.text_field, arguments.language_field, where, arguments.rehydrate),
        arguments.language,
        arguments.language_from,
        tuple(arguments.split) if arguments.split else None,
        arguments.max_line_bytes,
    )
