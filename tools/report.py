"""Report on a run, finished or not: pictures, tables, and what they say.

    python tools/report.py runs/quickstart

Reads the run's folder as `megatron_mmbert.pretrain` wrote it, and the merged model's scores from
OUT/merged_bits_per_byte.json (tools/evaluate.py writes it) if they are there. Writes OUT/report/{run.png,
bits_per_byte.png, summary.json, report.md} and prints the tables.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.report.build import write_report
from megatron_mmbert.report.run_reader import read_run
from megatron_mmbert.report.tables import tables_text
from megatron_mmbert.utils.errors import run_command


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT", help="the run's folder (--output of the training)")
    parser.add_argument("--recipe", type=Path, help="the recipe (default: the newest that the run saved)")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    run = read_run(arguments.output, arguments.recipe)
    files = write_report(run, arguments.output / "report")
    print(tables_text(run))
    print()
    for file in files:
        print(f"wrote {file}")


if __name__ == "__main__":
    run_command(main)
