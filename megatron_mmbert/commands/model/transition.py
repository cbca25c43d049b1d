"""Make, and explain, the checkpoint that the next phase of a recipe starts from.

Training does the same by itself between the phases of one run; this is for looking, and for runs that move.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import CHECKPOINT_HELP, add_allow_different, add_output, add_overrides

EXAMPLES = """
mmbert transition RUN/pretrain --recipe RECIPE.yaml --to midtrain --output start/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help=CHECKPOINT_HELP)
    parser.add_argument("--recipe", type=Path, required=True, metavar="RECIPE.yaml")
    parser.add_argument("--to", required=True, metavar="PHASE", help="name of the phase to prepare for")
    add_output(parser, explanation="checkpoint to write")
    add_allow_different(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Write the checkpoint, and say what changed."""
    from megatron_mmbert.checkpoint.discovery import resolve
    from megatron_mmbert.config.loading import load_recipe
    from megatron_mmbert.utils.output_kinds import CHECKPOINT
    from megatron_mmbert.utils.outputs import check_output

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    phase = recipe.phase(arguments.to)
    check_output(arguments.output, CHECKPOINT, (arguments.checkpoint,), arguments.overwrite)
    path = resolve(arguments.checkpoint)
    # Megatron-Core takes seconds to import: not before the input is known to be good.
    from megatron_mmbert import parallel
    from megatron_mmbert.checkpoint.identity import (
        check_names,
        check_thetas,
        check_tokenizer,
        intended_changes,
        tokenizer_values,
    )
    from megatron_mmbert.checkpoint.phase_transition import explain, transition, write_transition
    from megatron_mmbert.checkpoint.training_state import check_shape
    from megatron_mmbert.tokenizer.load import load_tokenizer

    allowed = {*phase.allow_different, *arguments.allow_different}
    check_names(allowed)
    before = check_shape(path, recipe.model, allowed)
    check_thetas(path, before, phase, allowed | intended_changes(phase, before))
    after = transition(before, recipe, phase)
    if recipe.tokenizer.path.exists():  # this command is for runs that move, too: the tokenizer may come later
        tokenizer = load_tokenizer(recipe.tokenizer.path)
        check_tokenizer(path, before, tokenizer, allowed)
        after = after.model_copy(update=tokenizer_values(before, tokenizer))
    print("\n".join((f"from {path}", *explain(before, after))))
    with parallel.process_group():
        write_transition(path, after, arguments.output, arguments.overwrite)
    print(f"wrote {arguments.output}")
