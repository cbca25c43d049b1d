"""Print how far a phase has come on disk, for job scripts.

Prints "STEP finished" or "STEP unfinished" of the newest valid checkpoint, and "0 unfinished" where there is none. A
checkpoint counts only if its files have their checksums, so this reads them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

EXAMPLES = """
mmbert where runs/mine pretrain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("output", type=Path, metavar="OUT", help="the run's folder")
    parser.add_argument("phase", help="name of a phase of the recipe")


def run(arguments: argparse.Namespace) -> None:
    """Print the newest step, and whether it is the phase's last."""
    from megatron_mmbert.builders.run_folder import PhaseFolder
    from megatron_mmbert.checkpoint.discovery import newest_step

    checkpoints = PhaseFolder(arguments.output, arguments.phase).checkpoints
    step, finished = newest_step(checkpoints, lambda text: print(text, file=sys.stderr))
    print(step, "finished" if finished else "unfinished")
