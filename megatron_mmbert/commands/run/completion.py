"""Print a script with which a shell completes the commands of mmbert, their flags and their choices by TAB.

Write it to ~/.local/share/bash-completion/completions/mmbert, for zsh to _mmbert in a folder of $fpath, for fish to
~/.config/fish/completions/mmbert.fish. It is made from the parsers, so write it again after an update.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert import compat
from megatron_mmbert.utils.errors import UserError

EXAMPLES = """
mmbert completion bash
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="for which shell")


def run(arguments: argparse.Namespace) -> None:
    """Print the script."""
    print(script(arguments.shell))


def script(shell: str) -> str:
    """Return the completion script for ``shell``.

    Raises:
        UserError: shtab is not installed.
    """
    from megatron_mmbert import cli

    try:
        import shtab
    except ImportError:
        raise UserError("completion needs the package shtab; pip install shtab") from None
    parser = argparse.ArgumentParser(prog=cli.PROGRAM)
    commands = parser.add_subparsers()
    for name, command in cli.COMMANDS.items():
        added = commands.add_parser(name, help=command.summary)
        cli.add_command(added, name)
        for action in compat.PARSER_ACTIONS.of(added):
            if action.type is Path:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell)
