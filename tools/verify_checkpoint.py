"""Verify checkpoints: every file against its checksum, the table of contents, and with --deep every tensor.

    python tools/verify_checkpoint.py --checkpoint runs/mine                     # all phases' checkpoints
    python tools/verify_checkpoint.py --checkpoint runs/mine/pretrain --deep
    python tools/verify_checkpoint.py --checkpoint runs/mine/pretrain/checkpoints/step-00000100

Prints a table. Ends with status 0 if all are sound, and with status 1 and one sentence for each problem if one is not.
Nothing in a checkpoint is run, loaded into a model, or changed.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from megatron_mmbert.checkpoint.verify import CheckResult, find_checkpoints, size_of, verify
from megatron_mmbert.utils.errors import run_command
from megatron_mmbert.utils.progress import ByteProgress
from megatron_mmbert.utils.text_table import table

EXIT_DAMAGED = 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--checkpoint", type=Path, required=True, metavar="PATH", help="a checkpoint, a phase's folder or a run's"
    )
    parser.add_argument("--deep", action="store_true", help="read every tensor: there, finite, of the model's shape")
    arguments = parser.parse_args()
    paths = find_checkpoints(arguments.checkpoint)
    if arguments.deep:
        from megatron_mmbert import parallel

        parallel.enable_cpu_mode()
        parallel.start()
    total = sum(size_of(path)[1] for path in paths) * (2 if arguments.deep else 1)
    with ByteProgress("verify", total) as progress:
        verdicts = [verify(path, arguments.deep, progress.add) for path in paths]
    print(_table(verdicts))
    for problem in (problem for verdict in verdicts for problem in verdict.checksum_problems):
        print(f"error: {problem}", file=sys.stderr)
    return 0 if all(verdict.sound for verdict in verdicts) else EXIT_DAMAGED


def _table(verdicts: Sequence[CheckResult]) -> str:
    header = ["checkpoint", "phase", "step", "tokens", "files", "MB", "optimizer", "verdict"]
    rows = []
    for each in verdicts:
        meta = each.meta
        about = [meta.phase or "-", f"{meta.step:,}", f"{meta.total_tokens:,}"] if meta else ["?", "?", "?"]
        optimizer = "?" if meta is None else "yes" if meta.has_optimizer else "no"
        verdict = "sound" if each.sound else f"damaged ({len(each.checksum_problems)})"
        rows.append([str(each.path), *about, str(each.files), f"{each.bytes / 1e6:,.1f}", optimizer, verdict])
    return table(header, rows, [False, False, True, True, True, True, False, False])


if __name__ == "__main__":
    run_command(main)
