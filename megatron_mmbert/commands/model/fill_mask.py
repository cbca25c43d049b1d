"""Show what an exported model fills into <mask>, in several languages.

Write the text as people do, with a space before <mask> where a word follows a space. A fill in [brackets] is the
expected word; +ing continues the word before it. Needs transformers.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import Whole, add_allow_different
from megatron_mmbert.utils.errors import UserError

EXAMPLES = """
mmbert fill-mask runs/quickstart/hf --texts examples/fill_mask.tsv
mmbert fill-mask runs/quickstart/hf --text "The cat <mask> on the mat."
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("model", type=Path, metavar="HF_DIR", help="a folder that convert-to-hf wrote")
    parser.add_argument("--text", action="append", default=[], help="a text with one <mask>; may be repeated")
    parser.add_argument("--texts", type=Path, metavar="FILE.tsv", help="columns: language, text, expected (optional)")
    parser.add_argument(
        "--top", type=Whole(1, 1000), default=5, metavar="N", help="fills to show (default %(default)s)"
    )
    add_allow_different(parser)


def run(arguments: argparse.Namespace) -> None:
    """Fill all masks, and print a table."""
    from megatron_mmbert.checkpoint.identity import check_names
    from megatron_mmbert.convert.hf_config import CONFIG_FILE
    from megatron_mmbert.convert.hf_identity import check_folder
    from megatron_mmbert.convert.hf_reader import HFTensors
    from megatron_mmbert.eval.fill_mask import MaskFiller, Prompt, read_prompts
    from megatron_mmbert.eval.tables import expected_line, fills_table

    prompts = [Prompt(text) for text in arguments.text]
    prompts += read_prompts(arguments.texts) if arguments.texts else []
    if not prompts:
        raise UserError("no text to fill; give --text 'The cat <mask> on the mat.' or --texts examples/fill_mask.tsv")
    check_names(arguments.allow_different)
    if (arguments.model / CONFIG_FILE).is_file():
        check_folder(arguments.model, arguments.allow_different)
        HFTensors(arguments.model).verify()
    filler = MaskFiller(arguments.model)
    filled = [filler.fill(prompt, arguments.top) for prompt in prompts]
    print(fills_table(filled, arguments.top))
    print("\n[word]: the expected one; +ing: continues the word before the mask; ␣: a space")
    counted = expected_line(filled, arguments.top)
    if counted:
        print(counted)
