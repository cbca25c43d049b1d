"""Where a phase stands on disk, for job scripts: ``python -m megatron_mmbert.train.where OUTPUT PHASE``.

Prints ``STEP finished`` or ``STEP unfinished`` of the newest committed checkpoint, and ``0 unfinished`` where there is
none. Its description is read and nothing else: whether the tensors are sound is seen when they are loaded.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.utils.errors import UserError, run_command


def where(output: Path, phase: str) -> tuple[int, bool]:
    """(step, finished) of the newest checkpoint whose description can be read."""
    for path in reversed(committed_checkpoints(PhaseFolder(output, phase).checkpoints)):
        try:
            meta = read_meta(path)
        except UserError:
            continue
        return meta.step, meta.finished
    return 0, False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, help="the run's folder")
    parser.add_argument("phase")
    arguments = parser.parse_args()
    step, finished = where(arguments.output, arguments.phase)
    print(step, "finished" if finished else "unfinished")


if __name__ == "__main__":
    run_command(main)
