"""Train a tokenizer on text files, one or more per language, and export it for Hugging Face with the same ids.

The language of a file is the code in its name (eng_Latn.jsonl, eng_Latn.001.jsonl.gz) or in its folder's.
"""

from __future__ import annotations

import argparse

from megatron_mmbert.commands.arguments import Real, Whole, add_output
from megatron_mmbert.commands.inputs import add_inputs, add_languages, input_options
from megatron_mmbert.utils.bounds import MAX_COUNT, MAX_VOCAB_SIZE

EXAMPLES = """
mmbert train-tokenizer --input corpus/ --vocab-size 32000 --output tokenizer/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add = parser.add_argument
    add_inputs(parser)
    add_languages(parser, copies=False)
    help_size = "exact number of ids; Gemma 2 has 256000"
    add("--vocab-size", type=Whole(1, MAX_VOCAB_SIZE), required=True, metavar="N", help=help_size)
    add_output(parser)
    add(
        "--temperature",
        type=Real(0, 1),
        default=0.3,
        help="share of a language ~ bytes^tau; small helps the small (0.3)",
    )
    add(
        "--prefix-space",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="put a space before the text, so that a first word is spelled like any other (no, as Gemma 2)",
    )
    add(
        "--character-coverage",
        type=Real(0, 1, above=True),
        metavar="C",
        help="share of the text whose characters get a piece (0.9995)",
    )
    add(
        "--max-bytes",
        type=Whole(1),
        default=10**9,
        metavar="N",
        help="bytes of text to train on (1G); training needs about 15 times as much memory",
    )
    add(
        "--max-copies",
        type=Real(1, 1e6),
        default=10.0,
        metavar="N",
        help="most repeats of a small language's text (10)",
    )
    add("--seed", type=Whole(-MAX_COUNT), default=0, help="which part of the large languages is taken (0)")
    add("--skip-bad", action="store_true", help="leave out lines without text, count them and list them in a file")


def run(arguments: argparse.Namespace) -> None:
    """Train, and say what was written and what was left out."""
    from megatron_mmbert.tokenizer.settings import Settings
    from megatron_mmbert.tokenizer.train import SKIPPED_FILE, train_tokenizer

    settings = Settings(
        vocab_size=arguments.vocab_size,
        temperature=arguments.temperature,
        prefix_space=arguments.prefix_space,
        character_coverage=arguments.character_coverage,
        max_bytes=arguments.max_bytes,
        max_copies=arguments.max_copies,
        seed=arguments.seed,
    )
    tokenizer, skipped = train_tokenizer(
        arguments.input, arguments.output, settings, arguments.overwrite, arguments.skip_bad, input_options(arguments)
    )
    if skipped.count:
        print(f"left out {skipped.count} bad lines, all of them in {arguments.output / SKIPPED_FILE}; the first:")
        print("".join(f"  {bad}\n" for bad in skipped.first), end="")
    print(f"wrote {arguments.output}: {tokenizer.vocab_size} pieces, fingerprint {tokenizer.fingerprint()[:12]}")
