"""Merge checkpoints of one model family into one: TIES, or linear, SLERP, task arithmetic, EMA by --method.

With --recipe, its merge section says what is merged and how, and the phases are those of the run in OUT_DIR; any flag
beside it replaces what the section says, and --method its numbers too. --base is the checkpoint that all models started
from (mmBERT: the end of mid-training). All arithmetic is float32, one tensor at a time. The output has the base's
configuration and tokenizer, and a merge_report.json.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megatron_mmbert.commands.arguments import Real, add_allow_different, add_output, add_overrides
from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    from megatron_mmbert.merge.request import MergeRequest

EXAMPLES = """
mmbert merge --recipe RECIPE.yaml --run runs/mine --output runs/mine/merged merge.density=0.4
mmbert merge --base MID --models DECAY_ENG DECAY_CONT DECAY_ALL --density 0.5 --output MERGED
mmbert merge --method slerp --models A B --t 0.3 --output MERGED
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    from megatron_mmbert.config.merge import METHODS, MergeOptions

    defaults = MergeOptions()
    ranges = {name: Real(each.low, each.high, each.above) for name, each in defaults.RANGES.items()}
    add = parser.add_argument
    add("--recipe", type=Path, metavar="RECIPE.yaml", help="its merge section says what to merge")
    add_overrides(parser)
    add("--run", type=Path, metavar="OUT_DIR", help="output folder of the recipe's run")
    add("--base", type=Path, metavar="CKPT", help="common ancestor; needed by ties, task_arithmetic")
    add("--models", type=Path, nargs="+", metavar="CKPT", help="ema: oldest first")
    add("--method", metavar="NAME", help=f"{', '.join(METHODS)} (default ties)")
    add("--density", type=ranges["density"], help=f"ties: share kept (default {defaults.density})")
    add("--weights", type=ranges["weights"], nargs="+", metavar="W", help="one per model (default equal)")
    add("--lambda", dest="scale", type=ranges["scale"], metavar="LAMBDA", help=f"default {defaults.scale}")
    add("--t", type=ranges["t"], help=f"slerp: 0 = first model, 1 = second (default {defaults.t})")
    add("--ema-decay", type=ranges["ema_decay"], help=f"ema: per checkpoint (default {defaults.ema_decay})")
    add_allow_different(parser)
    add_output(parser)


def request_of(arguments: argparse.Namespace) -> MergeRequest:
    """Return the merge that the recipe and the flags ask for together.

    Raises:
        UserError: they do not go together, or the recipe is bad.
    """
    from megatron_mmbert.merge.request import MergeRequest, request_from_recipe

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
    allowed = arguments.allow_different
    return request.changed(arguments.method, arguments.base, arguments.models, options, allowed)


def run(arguments: argparse.Namespace) -> None:
    """Merge, and say how much the models disagreed."""
    request, output = request_of(arguments), arguments.output
    from megatron_mmbert.merge.run import REPORT, merge_folders  # torch takes seconds
    from megatron_mmbert.merge.sources import MegatronCheckpoint

    if any(map(MegatronCheckpoint.recognizes, request.models)):  # Hugging Face's folders need no Megatron-Core
        from megatron_mmbert import parallel

        parallel.enable_cpu_mode()
    report = merge_folders(request, output, arguments.overwrite)
    summary = report["summary"]
    print(f"wrote {output}: {summary['tensors']} tensors of {len(request.models)} models merged by {report['method']}")
    if "sign_conflict_share" in summary:
        print(f"sign conflicts after trimming: {summary['sign_conflict_share']:.1%} of the entries any model kept")
    print(f"details: {output / REPORT}")
