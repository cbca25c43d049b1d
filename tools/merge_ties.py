"""Merge checkpoints of one model family into one: TIES, or linear, SLERP, task arithmetic, EMA by --method.

    python tools/merge_ties.py --base MID --models DECAY_ENG DECAY_CONT DECAY_ALL --density 0.5 --output MERGED

--base is the checkpoint all models started from (mmBERT: the end of mid-training). All arithmetic is float32, one
tensor at a time. The output has the base's configuration and tokenizer, and a merge_report.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.merge.options import METHODS, MergeOptions
from megatron_mmbert.merge.run import REPORT, merge_folders
from megatron_mmbert.utils.errors import run_command


def parse_arguments() -> argparse.Namespace:
    defaults = MergeOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, metavar="CKPT", help="common ancestor; needed by ties, task_arithmetic")
    parser.add_argument("--models", type=Path, nargs="+", required=True, metavar="CKPT", help="ema: oldest first")
    parser.add_argument("--method", default="ties", metavar="NAME", help=f"{', '.join(METHODS)} (default ties)")
    parser.add_argument("--density", type=float, default=defaults.density, help="ties: share kept (default 0.5)")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="one per model (default equal)")
    parser.add_argument("--lambda", dest="scale", type=float, default=defaults.scale, help="default 1.0")
    parser.add_argument("--t", type=float, default=defaults.t, help="slerp: 0 = first model, 1 = second (default 0.5)")
    parser.add_argument("--ema-decay", type=float, default=defaults.ema_decay, help="per checkpoint (default 0.5)")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()
    options = MergeOptions(
        density=arguments.density,
        weights=None if arguments.weights is None else tuple(arguments.weights),
        scale=arguments.scale,
        t=arguments.t,
        ema_decay=arguments.ema_decay,
    )
    models, output = arguments.models, arguments.output
    report = merge_folders(arguments.method, arguments.base, models, options, output, arguments.overwrite)
    summary = report["summary"]
    print(f"wrote {output}: {summary['tensors']} tensors of {len(models)} models merged by {report['method']}")
    if "sign_conflict_share" in summary:
        print(f"sign conflicts after trimming: {summary['sign_conflict_share']:.1%} of the entries any model kept")
    print(f"details: {output / REPORT}")


if __name__ == "__main__":
    run_command(main)
