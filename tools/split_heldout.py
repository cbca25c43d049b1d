"""Set held-out text aside, per language, before anything is trained.

    python tools/split_heldout.py --input corpus/ --output split/ --share 0.05

writes split/train and split/heldout, to be preprocessed into two stores.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.config.values import parse_count
from megatron_mmbert.data.text.heldout_split import split_files
from megatron_mmbert.utils.errors import run_command


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", nargs="+", type=Path, required=True, metavar="PATH", help="files or folders")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--share", type=float, default=0.05, help="of each language's bytes (default: %(default)s)")
    parser.add_argument(
        "--max-bytes", "--most-bytes", type=parse_count, default=200_000, metavar="N", help="per language (200k)"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace DIR")
    arguments = parser.parse_args()
    print(split_files(arguments.input, arguments.output, arguments.share, arguments.max_bytes, arguments.overwrite))


if __name__ == "__main__":
    run_command(main)
