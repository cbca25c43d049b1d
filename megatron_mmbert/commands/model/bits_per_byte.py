"""Measure held-out bits per byte by language of any checkpoint: of training, merged, or converted.

CKPT is a checkpoint folder, or a phase's folder (then its newest valid checkpoint). Lower is better. Checkpoints
compare if tokenizer, held-out stores, evaluation and the shortest max_length of the recipe's phases are the same.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import CHECKPOINT_HELP, add_allow_different, add_overrides

EXAMPLES = """
mmbert bits-per-byte runs/quickstart/merged --recipe examples/quickstart.yaml evaluation.rounds=8
mmbert bits-per-byte runs/mine/merged --recipe RECIPE.yaml --output runs/mine/merged_bits_per_byte.json
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help=CHECKPOINT_HELP)
    parser.add_argument("--recipe", type=Path, required=True, help="says the tokenizer, the model, the held-out stores")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="also write the scores there")
    add_allow_different(parser)
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Score the checkpoint, print a table, and write the scores as ``mmbert report`` reads them."""
    from megatron_mmbert.config.loading import load_recipe
    from megatron_mmbert.utils.files import put_json
    from megatron_mmbert.utils.output_kinds import SCORES
    from megatron_mmbert.utils.outputs import check_output, output_file

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    inputs = (arguments.checkpoint, arguments.recipe)
    if arguments.output:
        check_output(arguments.output, SCORES, inputs, overwrite=True)
    # Megatron-Core takes seconds to import: not before the recipe is known to be good.
    from megatron_mmbert import parallel
    from megatron_mmbert.eval.checkpoint_scores import score_checkpoint
    from megatron_mmbert.eval.tables import scores_table

    parallel.enable_cpu_mode()
    scores = score_checkpoint(arguments.checkpoint, recipe, arguments.allow_different)
    print(scores_table(scores))
    if arguments.output:
        values = {
            "checkpoint": str(arguments.checkpoint),
            "after": {language: score.bits_per_byte for language, score in scores.items()},
            "tokens": {language: score.tokens for language, score in scores.items()},
            "bytes": {language: score.bytes for language, score in scores.items()},
        }
        with output_file(arguments.output, SCORES, inputs, overwrite=True) as staging:
            put_json(staging, values)
        print(f"wrote {arguments.output}")
