"""Arguments that several commands share, and old names of flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_mmbert.utils.errors import UserError

if TYPE_CHECKING:
    pass

CHECKPOINT_HELP = "a checkpoint, or a phase's folder (its newest)"


def count(text: str) -> int:
    """Return the whole number that ``text`` says, also written 32k, 1.5B or 4_718_592.

    Raises:
        argparse.ArgumentTypeError: it says none, or one below 0.
    """
    from megatron_mmbert.config.values import parse_count  # pydantic: not needed for --help

    try:
        return int(parse_count(text))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add the positional ``recipe``."""
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="the recipe")


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add ``key.path=value ...``, recipe values to replace."""
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")


def add_output(parser: argparse.ArgumentParser, metavar: str = "DIR", explanation: str = "folder to write") -> None:
    """Add ``--output``, required, and ``--overwrite``."""
    parser.add_argument("--output", type=Path, required=True, metavar=metavar, help=explanation)
    parser.add_argument("--overwrite", action="store_true", help=f"replace {metavar} if it exists")


def check_min(arguments: argparse.Namespace, low: int, *names: str) -> None:
    """Check that the given ones of the numbers ``names`` of ``arguments`` are at least ``low``.

    Raises:
        UserError: one is not.
    """
    for name in names:
        value = getattr(arguments, name)
        if value is not None and value < low:
            raise UserError(f"--{name.replace('_', '-')} {value}: must be at least {low}")


def add_renamed(parser: argparse.ArgumentParser, old: str, new: str, **options: Any) -> None:
    """Add the flag ``new`` with the ``options`` of ``add_argument``; its old name ``old`` is taken with one sentence.

    The old name is in no help.
    """
    action = parser.add_argument(new, **options)

    class Renamed(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: str | Sequence[Any] | None,
            option_string: str | None = None,
        ) -> None:
            print(f"{old} is now called {new}; the old name is still taken", file=sys.stderr)
            action(parser, namespace, values, option_string)

    parser.add_argument(
        old,
        action=Renamed,
        dest=action.dest,
        nargs=action.nargs,
        type=action.type or str,
        default=argparse.SUPPRESS,
        help=argparse.SUPPRESS,
    )
