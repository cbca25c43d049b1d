"""Print one value of a recipe, for shell scripts.

A value takes one line, a list one line for each item, and a value that is not set none.
"""

from __future__ import annotations

import argparse

from megatron_mmbert.commands.arguments import add_overrides, add_recipe

EXAMPLES = """
mmbert config-show RECIPE.yaml merge.models
mmbert config-show RECIPE.yaml phases.pretrain.tokens phases.pretrain.tokens=1B
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    add_recipe(parser)
    parser.add_argument("key", help="such as name, merge.models or phases.pretrain.tokens")
    add_overrides(parser)


def run(arguments: argparse.Namespace) -> None:
    """Print the value."""
    from megatron_mmbert.config.loading import load_recipe, lookup

    value = lookup(load_recipe(arguments.recipe, arguments.overrides).to_dict(), arguments.key)
    for item in value if isinstance(value, list) else [] if value is None else [value]:
        print(item)
