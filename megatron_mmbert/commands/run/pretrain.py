"""Train one phase of a recipe, or resume it.

Starts from the phase before it, or resumes where it stopped; says so and ends when the phase is complete already. All
that a phase writes is in OUT/PHASE: checkpoints, metrics, the recipe. key.path=value overrides recipe values.

Asked to stop (a signal, or MMBERT_END_TIME in seconds since 1970 drawing near), all ranks end the step, save, and the
process ends with status 75: start it again and it resumes. Under torchrun, which takes every other status for a crash,
it ends with 0. PHASE/stopped.json, PHASE/failed.json and PHASE/interrupted.json tell job scripts the same.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from megatron_mmbert.commands.arguments import add_allow_different, add_overrides, add_recipe

EXAMPLES = """
mmbert pretrain recipe.yaml --phase pretrain phases.pretrain.tokens=10B model.attention_output_dropout=0
torchrun --nproc-per-node 8 -m megatron_mmbert pretrain recipe.yaml --phase pretrain
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_recipe(parser)
    parser.add_argument("--phase", required=True, help="name of a phase of the recipe")
    parser.add_argument("--output", type=Path, metavar="OUT", help="the run's folder (default runs/NAME of the recipe)")
    parser.add_argument("--start-from", type=Path, metavar="CKPT", help="start the phase from this checkpoint")
    add_allow_different(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train the phase; returns 0, or the status that asks for another start."""
    from megatron_mmbert.builders.run_folder import PhaseFolder
    from megatron_mmbert.config.loading import load_recipe
    from megatron_mmbert.train.callbacks.stop_request import StopRequest, end_time_of
    from megatron_mmbert.utils.errors import EXIT_STOPPED
    from megatron_mmbert.utils.outputs import check_run_folder

    overrides = list(arguments.overrides)
    if arguments.allow_different:  # a key of the phase, so that the run's recipe tells of it
        overrides.append(f"phases.{arguments.phase}.allow_different=[{', '.join(arguments.allow_different)}]")
    recipe = load_recipe(arguments.recipe, overrides)
    phase = recipe.phase(arguments.phase)
    output = arguments.output or Path("runs") / recipe.name
    folder = PhaseFolder(output, phase.name)
    check_run_folder(folder.path)
    # First of all: a signal that comes while Megatron-Core is imported is heard too.
    stop = StopRequest(recipe.logging.stop_signals, end_time_of(os.environ))
    from megatron_mmbert.plan.micro_batch import packs_that_fit
    from megatron_mmbert.train.phase_run import run_phase

    finished = run_phase(recipe, phase, folder, stop, arguments.start_from, packs_that_fit)
    return 0 if finished or "TORCHELASTIC_RUN_ID" in os.environ else EXIT_STOPPED
