"""What an exported model fills into <mask>, in several languages.

    python tools/fill_mask.py runs/quickstart/hf --texts examples/fill_mask.tsv
    python tools/fill_mask.py runs/quickstart/hf --text "The cat <mask> on the mat."

Write the text as people do, with a space before <mask> where a word follows a space. A fill in [brackets] is the
expected word; +ing continues the word before it.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.eval.fill_mask import Filled, MaskFiller, Prompt, read_prompts
from megatron_mmbert.utils.errors import UserError, run_command
from megatron_mmbert.utils.text_table import table


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, metavar="HF_DIR", help="a folder that tools/convert_to_hf.py wrote")
    parser.add_argument("--text", action="append", default=[], help="a text with one <mask>; may be repeated")
    parser.add_argument("--texts", type=Path, metavar="FILE.tsv", help="columns: language, text, expected (optional)")
    parser.add_argument("--top", type=int, default=5, metavar="N", help="fills to show (default %(default)s)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    if arguments.top < 1:
        raise UserError(f"--top {arguments.top}: must be at least 1")
    prompts = [Prompt(text) for text in arguments.text]
    prompts += read_prompts(arguments.texts) if arguments.texts else []
    if not prompts:
        raise UserError("no text to fill; give --text 'The cat <mask> on the mat.' or --texts examples/fill_mask.tsv")
    filler = MaskFiller(arguments.model)
    filled = [filler.fill(prompt, arguments.top) for prompt in prompts]
    print(_table(filled, arguments.top))
    print("\n[word]: the expected one; +ing: continues the word before the mask; ␣: a space")
    known = [each for each in filled if each.expected_rank is not None]
    if known:
        hits = sum(any(fill.is_expected for fill in each.fills) for each in known)
        print(f"the expected word is among the {arguments.top} likeliest in {hits} of {len(known)} texts")


def _table(filled: list[Filled], top: int) -> str:
    named = any(each.prompt.language for each in filled)
    asked = any(each.prompt.expected for each in filled)
    header = [*(["language"] if named else []), "text", *(["expected, rank"] if asked else []), *_numbers(top)]
    rows = []
    for each in filled:
        fills = [f"[{fill.shown}]" if fill.is_expected else fill.shown for fill in each.fills]
        cells = [f"{shown} {fill.probability:.0%}" for shown, fill in zip(fills, each.fills, strict=True)]
        rows.append(
            [
                *([each.prompt.language] if named else []),
                each.prompt.text,
                *([_expected(each)] if asked else []),
                *cells,
            ]
        )
    return table(header, rows, [False] * len(header))


def _numbers(top: int) -> list[str]:
    return [str(number) for number in range(1, top + 1)]


def _expected(filled: Filled) -> str:
    word = filled.prompt.expected
    if not word:
        return ""
    return f"{word}, not one token" if filled.expected_rank is None else f"{word}, {filled.expected_rank}"


if __name__ == "__main__":
    run_command(main)
