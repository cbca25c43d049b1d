"""Report on a run, finished or not: plots, tables, and what they say.

Reads the run's folder as pretrain wrote it, and the merged model's scores from OUT/merged_bits_per_byte.json
(bits-per-byte writes it) if they are there. Prints the tables and writes them with plots to --output, in place of an
older report: run.png, bits_per_byte.png, summary.json, report.md.
"""

from __future__ import annotations

import argparse
from pathlib import Path

EXAMPLES = """
mmbert report runs/quickstart
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("output", type=Path, metavar="OUT", help="the run's folder (--output of the training)")
    parser.add_argument("--output", type=Path, dest="report", metavar="DIR", help="where to (OUT/report)")
    parser.add_argument("--recipe", type=Path, help="the recipe (default: the newest that the run saved)")


def run(arguments: argparse.Namespace) -> None:
    """Write the report, and print its tables."""
    from megatron_mmbert.report.build import write_report
    from megatron_mmbert.report.run_reader import read_run
    from megatron_mmbert.report.tables import tables_text

    finished = read_run(arguments.output, arguments.recipe)
    files = write_report(finished, arguments.report or arguments.output / "report")
    print(tables_text(finished))
    print()
    for file in files:
        print(f"wrote {file}")
