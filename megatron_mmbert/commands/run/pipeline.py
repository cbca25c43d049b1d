"""Submit a whole run to Slurm as one graph of jobs: the phases by their ``from:``, the merge, the evaluation.

Each job starts when those before it are done, and not at all when one fails. The scripts and the cluster's settings are
in ``slurm/`` of a checkout of the project.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import Whole, add_overrides, add_recipe

EXAMPLES = """
mmbert pipeline RECIPE.yaml --dry-run
mmbert pipeline RECIPE.yaml --output runs/mine
mmbert pipeline RECIPE.yaml --corpus split/train --shards 64 --output runs/mine
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_recipe(parser)
    parser.add_argument("--dry-run", action="store_true", help="print the sbatch lines and submit nothing")
    parser.add_argument("--corpus", type=Path, metavar="DIR", help="text that the first jobs make into the first store")
    shards = Whole(1, 100_000)
    parser.add_argument("--shards", type=shards, default=8, metavar="N", help="jobs that make it (default %(default)s)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the run's folder (default runs/NAME of the recipe)")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run ``slurm/pipeline.sh``; return its status."""
    import os
    import subprocess
    import sys

    from megatron_mmbert.utils.errors import UserError

    script = Path(__file__).resolve().parents[3] / "slurm" / "pipeline.sh"
    if not script.is_file():
        raise UserError(f"{script}: no job scripts there; run the command from a checkout of the project")
    command = ["bash", str(script), *(["--dry-run"] if arguments.dry_run else [])]
    if arguments.corpus:
        command += ["--corpus", str(arguments.corpus.resolve()), "--shards", str(arguments.shards)]
    if arguments.output:
        command += ["--output", str(arguments.output.resolve())]
    environment = {"PYTHON": sys.executable, **os.environ}
    # The script works from the checkout, so that paths are absolute; no shell reads the words of the command.
    return subprocess.run([*command, str(arguments.recipe.resolve()), *arguments.overrides], env=environment).returncode
