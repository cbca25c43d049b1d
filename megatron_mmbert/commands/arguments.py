"""Arguments that several commands share, and old names of flags."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.bounds import MAX_COUNT, Range

CHECKPOINT_HELP = "a checkpoint, or a phase's folder (its newest)"
_SHOWN = 40


@dataclass(frozen=True)
class Whole:
    """The type of a flag that takes a whole number from ``low`` to ``high``, also written 32k, 1.5B or 4_718_592."""

    low: int = 0
    high: int = MAX_COUNT

    def __call__(self, text: str) -> int:
        """Return the number that ``text`` says.

        Raises:
            argparse.ArgumentTypeError: it says none, or one out of the range.
        """
        from megatron_mmbert.config.values import parse_count  # pydantic: not needed for --help

        sign, digits = (-1, text[1:]) if text.startswith("-") else (1, text)
        try:
            number = sign * int(parse_count(digits))
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{_shown(text)}: {error}") from None
        _check(text, number, Range(self.low, self.high))
        return number


@dataclass(frozen=True)
class Real:
    """The type of a flag that takes a finite number from ``low`` to ``high``; ``above`` excludes ``low`` itself.

    ``counts`` lets it be written 100k or 1.5T too.
    """

    low: float
    high: float
    above: bool = False
    counts: bool = False

    def __call__(self, text: str) -> float:
        """Return the number that ``text`` says.

        Raises:
            argparse.ArgumentTypeError: it says none, or one out of the range.
        """
        try:
            number = float(self._written(text))
        except (ValueError, OverflowError):
            raise argparse.ArgumentTypeError(f"{_shown(text)} is not a number") from None
        _check(text, number, Range(self.low, self.high, self.above))
        return number

    def _written(self, text: str) -> str | int:
        from megatron_mmbert.config.values import parse_count

        try:
            return int(parse_count(text)) if self.counts else text
        except ValueError:
            return text


def _check(text: str, number: float, allowed: Range) -> None:
    if number not in allowed:
        raise argparse.ArgumentTypeError(f"{_shown(text)} must be {allowed}")


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}...")


count = Whole()


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


def add_allow_different(parser: argparse.ArgumentParser) -> None:
    """Add ``--allow-different``, names of values in which what is joined may differ."""
    parser.add_argument(
        "--allow-different",
        action="extend",
        type=lambda text: text.split(","),  # not several words: values of the recipe may follow
        default=[],
        metavar="NAME[,NAME]",
        help="accept that these values differ, such as tokenizer,rope_theta",
    )


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
