"""Check in seconds whether this node can train a recipe, before the GPUs wait for each other.

Run with a recipe on every node, it checks the output folder, its free space, the GPUs, the packages and the stores, and
with --record writes what must be the same everywhere. Run once with --compare, it names the nodes that differ, and sees
whether all records have come together: where some are missing, the nodes do not share the output folder. Both end with
status 2 and one sentence for each fault.
"""

from __future__ import annotations

import argparse
import socket
import sys
from pathlib import Path

from megatron_mmbert.commands.arguments import Real, Whole, add_overrides
from megatron_mmbert.utils.bounds import MAX_RANKS
from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, UserError

EXAMPLES = """
mmbert preflight RECIPE.yaml --output runs/mine --gpus 8 --record DIR    # on every node
mmbert preflight --compare DIR --nodes 2                                 # then once
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("recipe", type=Path, nargs="?", metavar="RECIPE.yaml", help="the recipe")
    add_overrides(parser)
    parser.add_argument("--output", type=Path, default=Path("runs"), help="the run's folder (default: %(default)s)")
    parser.add_argument(
        "--gpus", type=Whole(0, MAX_RANKS), default=0, help="GPUs that must be seen here (default: none)"
    )
    gigabytes = Real(0.0, 1e9)
    parser.add_argument(
        "--min-free-gb", type=gigabytes, default=1.0, help="free space wanted there (default: %(default)s)"
    )
    parser.add_argument("--record", type=Path, metavar="DIR", help="write this node's facts there")
    parser.add_argument("--compare", type=Path, metavar="DIR", help="compare the records of all nodes")
    parser.add_argument(
        "--nodes", type=Whole(1, MAX_RANKS), default=1, help="how many records to --compare there must be"
    )


def run(arguments: argparse.Namespace) -> int:
    """Check this node, or compare the records of all; returns the exit status."""
    from megatron_mmbert.diagnosis.nodes import compare

    if arguments.compare is None:
        if arguments.recipe is None:
            raise UserError("give a recipe, or --compare DIR")
        return check_node(arguments)
    found = list(compare(arguments.compare, arguments.nodes))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    return EXIT_BAD_INPUT if found else 0


def check_node(arguments: argparse.Namespace) -> int:
    """Check this node and record its facts; returns the exit status."""
    from megatron_mmbert.config.loading import load_recipe
    from megatron_mmbert.diagnosis.nodes import node_facts, problems
    from megatron_mmbert.utils.files import put_json
    from megatron_mmbert.utils.output_kinds import NODE_RECORD
    from megatron_mmbert.utils.outputs import output_file

    recipe, host = load_recipe(arguments.recipe, arguments.overrides), socket.gethostname()
    found = list(problems(recipe, arguments.output, arguments.gpus, arguments.min_free_gb))
    for problem in found:
        print(f"error: {host}: {problem}", file=sys.stderr)
    if arguments.record is not None and not found:
        with output_file(arguments.record / f"{host}.json", NODE_RECORD, overwrite=True) as staging:
            put_json(staging, node_facts(recipe))
    if not found:
        print(f"{host}: can train {recipe.name}")
    return EXIT_BAD_INPUT if found else 0
