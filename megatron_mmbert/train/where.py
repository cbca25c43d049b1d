"""Where a phase stands on disk, for job scripts: ``python -m megatron_mmbert.train.where OUTPUT PHASE``.

Prints ``STEP finished`` or ``STEP unfinished`` of the newest committed checkpoint, and ``0 unfinished`` where there is
none. A checkpoint counts only if its files have their checksums, so this reads them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.checkpoint.discovery import committed_checkpoints, newest_valid
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.utils.errors import UserError, run_command


def where(output: Path, phase: str) -> tuple[int, bool]:
    """Return (step, finished) of the newest valid checkpoint; (0, False) where there is none.

    Raises:
        UserError: there are checkpoints, and none is valid.
    """
    checkpoints = PhaseFolder(output, phase).checkpoints
    path = newest_valid(checkpoints, lambda text: print(text, file=sys.stderr))
    if path is None and committed_checkpoints(checkpoints):
        raise UserError(f"{checkpoints}: none of the checkpoints is valid; copy them again, or move the folder away")
    if path is None:
        return 0, False
    meta = read_meta(path)
    return meta.step, meta.finished


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the run's folder")
    parser.add_argument("phase")
    arguments = parser.parse_args()
    step, finished = where(arguments.output, arguments.phase)
    print(step, "finished" if finished else "unfinished")


if __name__ == "__main__":
    run_command(main)
