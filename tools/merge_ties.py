"""Merge checkpoints of one model family into one: TIES, or linear, SLERP, task arithmetic, EMA by --method.

    python tools/merge_ties.py --recipe RECIPE.yaml [key.path=value ...] --run OUT_DIR --output MERGED
    python tools/merge_ties.py --base MID --models DECAY_ENG DECAY_CONT DECAY_ALL --density 0.5 --output MERGED

With --recipe, its merge section says what is merged and how, and the phases are those of the run in OUT_DIR; any flag
beside it replaces what the section says, and --method its numbers too. --base is the checkpoint that all models started
from (mmBERT: the end of mid-training). All arithmetic is float32, one tensor at a time. The output has the base's
configuration and tokenizer, and a merge_report.json.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.config.merge import METHODS, MergeOptions
from megatron_mmbert.merge.request import MergeRequest, request_from_recipe
from megatron_mmbert.merge.run import REPORT, merge_folders
from megatron_mmbert.utils.errors import UserError, run_command


def parse_arguments() -> argparse.Namespace:
    defaults = MergeOptions()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", type=Path, metavar="RECIPE.yaml", help="its merge section says what to merge")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    parser.add_argument("--run", type=Path, metavar="OUT_DIR", help="output folder of the recipe's run")
    parser.add_argument("--base", type=Path, metavar="CKPT", help="common ancestor; needed by ties, task_arithmetic")
    parser.add_argument("--models", type=Path, nargs="+", metavar="CKPT", help="ema: oldest first")
    parser.add_argument("--method", metavar="NAME", help=f"{', '.join(METHODS)} (default ties)")
    parser.add_argument("--density", type=float, help=f"ties: share kept (default {defaults.density})")
    parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="one per model (default equal)")
    parser.add_argument("--lambda", dest="scale", type=float, metavar="LAMBDA", help=f"default {defaults.scale}")
    parser.add_argument("--t", type=float, help=f"slerp: 0 = first model, 1 = second (default {defaults.t})")
    parser.add_argument("--ema-decay", type=float, help=f"ema: per checkpoint (default {defaults.ema_decay})")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
    return parser.parse_intermixed_args()  # overrides may stand behind options


def request_of(arguments: argparse.Namespace) -> MergeRequest:
    """Return the merge that the recipe and the flags ask for together."""
    if (arguments.recipe is None) != (arguments.run is None):
        raise UserError("--recipe and --run go together: the recipe's phases, and the folder that they were trained in")
    if arguments.overrides and arguments.recipe is None:
        raise UserError(f"{arguments.overrides[0]!r}: replaces a value of a recipe; name it with --recipe")
    request = MergeRequest()
    if arguments.recipe is not None:
        request = request_from_recipe(arguments.recipe, arguments.overrides, arguments.run)
    options = {
        "density": arguments.density,
        "weights": None if arguments.weights is None else tuple(arguments.weights),
        "scale": arguments.scale,
        "t": arguments.t,
        "ema_decay": arguments.ema_decay,
    }
    return request.changed(arguments.method, arguments.base, arguments.models, options)


def main() -> None:
    arguments = parse_arguments()
    request, output = request_of(arguments), arguments.output
    report = merge_folders(request, output, arguments.overwrite)
    summary = report["summary"]
    print(f"wrote {output}: {summary['tensors']} tensors of {len(request.models)} models merged by {report['method']}")
    if "sign_conflict_share" in summary:
        print(f"sign conflicts after trimming: {summary['sign_conflict_share']:.1%} of the entries any model kept")
    print(f"details: {output / REPORT}")


if __name__ == "__main__":
    run_command(main)
