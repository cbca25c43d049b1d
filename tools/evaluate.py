"""Held-out bits per byte by language of any checkpoint: of training, merged, or converted.

    python tools/evaluate.py runs/quickstart/merged --recipe examples/quickstart.yaml \\
        --output runs/quickstart/merged_bits_per_byte.json

CKPT is a checkpoint folder, or a phase's folder (then its newest sound checkpoint). Lower is better. Checkpoints
compare if tokenizer, held-out stores, `evaluation` and the shortest `max_length` of the recipe's phases are the same.
`key.path=value` overrides recipe values: `evaluation.rounds=8`.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.utils.errors import run_command
from megatron_mmbert.utils.files import write_json
from megatron_mmbert.utils.text_table import table

if TYPE_CHECKING:
    from megatron_mmbert.eval.bits_per_byte import Score


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT")
    parser.add_argument("--recipe", type=Path, required=True, help="says the tokenizer, the model, the held-out stores")
    parser.add_argument("--output", type=Path, metavar="FILE.json", help="also write the scores there")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    return parser.parse_intermixed_args()  # overrides may stand behind options


def main() -> None:
    arguments = parse_arguments()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    warnings.filterwarnings("ignore", module=r"megatron\.")  # it names every optional package that is not there
    # Megatron-Core takes seconds to import: not before the recipe is known to be good.
    from megatron_mmbert.eval.checkpoint_scores import score_checkpoint

    scores = score_checkpoint(arguments.checkpoint, recipe)
    print(_table(scores))
    if arguments.output:
        values = {
            "checkpoint": str(arguments.checkpoint),
            "after": {language: score.bits_per_byte for language, score in scores.items()},
            "tokens": {language: score.tokens for language, score in scores.items()},
            "bytes": {language: score.bytes for language, score in scores.items()},
        }
        write_json(arguments.output, values)
        print(f"wrote {arguments.output}")


def _table(scores: dict[str, Score]) -> str:
    rows = [[name, f"{score.bits_per_byte:.3f}", f"{score.tokens:,}"] for name, score in scores.items()]
    mean = sum(score.bits_per_byte for score in scores.values()) / len(scores)
    tokens = sum(score.tokens for score in scores.values())
    rows.append([f"mean of {len(scores)} languages", f"{mean:.3f}", f"{tokens:,}"])
    return table(["language", "bits per byte", "scored tokens"], rows, [False, True, True])


if __name__ == "__main__":
    run_command(main)
