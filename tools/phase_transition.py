"""Make, and explain, the checkpoint that the next phase of a recipe starts from.

    python tools/phase_transition.py RUN/pretrain --recipe RECIPE.yaml --to midtrain --output start/

Training does the same by itself between the phases of one run; this is for looking, and for runs that move.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.utils.errors import UserError, nearest, run_command
from megatron_mmbert.utils.files import check_output


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint, or a phase's folder (its newest)")
    parser.add_argument("--recipe", type=Path, required=True, metavar="RECIPE.yaml")
    parser.add_argument("--to", required=True, metavar="PHASE", help="name of the phase to prepare for")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    return parser.parse_intermixed_args()  # overrides may stand behind options


def main() -> None:
    arguments = parse()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    names = [phase.name for phase in recipe.phases]
    if arguments.to not in names:
        hint = nearest(arguments.to, names)
        raise UserError(f"{arguments.recipe}: no phase {arguments.to!r}{hint}; choose from {', '.join(names)}")
    check_output(arguments.output, (arguments.checkpoint,), arguments.overwrite)
    path = resolve(arguments.checkpoint)
    from megatron_mmbert import parallel  # takes seconds: not before the input is known to be good
    from megatron_mmbert.checkpoint.phase_transition import explain, transition, write_transition
    from megatron_mmbert.checkpoint.training_state import check_shape

    before = check_shape(path, recipe.model)
    after = transition(before, recipe, recipe.phase(arguments.to))
    print("\n".join((f"from {path}", *explain(before, after))))
    parallel.start()
    try:
        write_transition(path, after, arguments.output)
    finally:
        parallel.shutdown()
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    run_command(main)
