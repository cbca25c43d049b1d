"""The console script ``mmbert COMMAND``, and what ``tools/*.py`` and ``python -m megatron_mmbert.*`` run.

All ways to a command share its parser and its ``run``; only the chosen command's module is imported.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, cast

from megatron_mmbert import __version__
from megatron_mmbert.utils.errors import UserError, nearest, run_command

PROGRAM = "mmbert"


@dataclass(frozen=True)
class Command:
    """A command of ``mmbert``: its module under ``megatron_mmbert.commands``, and what the list of commands says."""

    module: str
    summary: str


COMMANDS = {
    "split-heldout": Command("data.split_heldout", "set held-out text aside, for languages of any size"),
    "train-tokenizer": Command("data.train_tokenizer", "train a SentencePiece tokenizer as Gemma 2's, and export it"),
    "preprocess": Command("data.preprocess", "turn text files into a token store"),
    "import-mds": Command("data.import_mds", "turn MDS shards of token ids, as mmBERT's data, into a token store"),
    "export-mds": Command("data.export_mds", "write a token store as MDS shards, to train elsewhere"),
    "data-report": Command("data.data_report", "look at a token store: one page with its languages, and what is odd"),
    "inspect": Command("data.inspect", "show what the model is given at a place of a phase: packs, decoded"),
    "transition": Command("model.transition", "make the checkpoint that the next phase starts from"),
    "extend-context": Command("model.extend_context", "make a checkpoint ready for longer samples"),
    "bits-per-byte": Command("model.bits_per_byte", "measure held-out bits per byte by language of any checkpoint"),
    "merge": Command("model.merge", "merge checkpoints: TIES, linear, SLERP, task arithmetic, EMA"),
    "convert-to-hf": Command("model.convert_to_hf", "write a checkpoint as a Hugging Face ModernBERT folder"),
    "convert-from-hf": Command("model.convert_from_hf", "make a checkpoint of a Hugging Face ModernBERT folder"),
    "fill-mask": Command("model.fill_mask", "show what an exported model fills into masks"),
    "encode": Command("model.encode", "write embeddings or MLM scores of a corpus with an exported model"),
    "evaluate": Command("model.evaluate", "score encoders on the tasks of a suite, beside chance and baselines"),
    "plan": Command("run.plan", "plan what a recipe would do: steps, languages, memory, layout, time, cost"),
    "pretrain": Command("run.pretrain", "train one phase of a recipe, or resume it"),
    "doctor": Command("run.doctor", "measure what this machine can run, how fast, and say what is missing"),
    "preflight": Command("run.preflight", "check in seconds whether nodes can train a recipe, and are alike"),
    "pipeline": Command("run.pipeline", "submit a whole run to Slurm as one graph of jobs, from the recipe's `from:`"),
    "report": Command("run.report", "report on a run, finished or not: plots, tables, and what they say"),
    "verify": Command("run.verify", "verify stores, checkpoints, exported models, tokenizers: checksums and contents"),
    "config-show": Command("run.config_show", "print one value of a recipe, for shell scripts"),
    "where": Command("run.where", "print how far a phase has come on disk, for job scripts"),
    "completion": Command("run.completion", "print a script for TAB completion in bash, zsh or fish"),
}
_HEADINGS = {
    "data": "text, tokenizers and stores",
    "model": "checkpoints and exported models",
    "run": "training runs and the machine",
}


class CommandModule(Protocol):
    """The module of a command, see :mod:`megatron_mmbert.commands`."""

    __doc__: str
    EXAMPLES: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None: ...

    def run(self, arguments: argparse.Namespace) -> int | None: ...


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one sentence, like those of the commands themselves."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message.removeprefix('argument ')}; see `{self.prog} --help`")


def module_of(name: str) -> CommandModule:
    """Import the module of the command ``name``.

    Raises:
        UserError: there is no such command.
    """
    if name not in COMMANDS:
        raise UserError(f"no command {name!r}{nearest(name, COMMANDS)}; `{PROGRAM} --help` lists them")
    module = importlib.import_module(f"megatron_mmbert.commands.{COMMANDS[name].module}")
    return cast(CommandModule, module)


def add_command(parser: argparse.ArgumentParser, name: str) -> None:
    """Make ``parser`` the parser of the command ``name``: its arguments, its description and its examples."""
    module = module_of(name)
    parser.description = module.__doc__
    parser.epilog = "examples:\n" + "\n".join(f"  {line}" for line in module.EXAMPLES.strip().splitlines())
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    module.add_arguments(parser)


def dispatch(argv: Sequence[str], program: str | None = None) -> int | None:
    """Run the command ``argv[0]`` with the arguments after it; returns its exit status, None for 0.

    Args:
        program: the name in its usage; ``mmbert COMMAND`` when None.

    Raises:
        UserError: bad input.
    """
    name, *rest = argv
    for argument in rest:
        if not _is_text(argument):
            raise UserError(f"{argument!a}: not UTF-8 text; write it, or rename the file, in UTF-8")
    module = module_of(name)
    parser = Parser(prog=program or f"{PROGRAM} {name}")
    add_command(parser, name)
    return module.run(parser.parse_intermixed_args(rest))  # overrides may stand after options


def _is_text(argument: str) -> bool:
    """Return whether an argument is UTF-8: outputs record what they were made from, and could not be finished else."""
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def overview() -> str:
    """Return the list of all commands, by what they are about."""
    lines = [
        f"usage: {PROGRAM} COMMAND ...",
        "",
        "Training of multilingual encoders, from raw text to an exported model.",
    ]
    width = max(map(len, COMMANDS))
    for package, heading in _HEADINGS.items():
        listed = {name: command for name, command in COMMANDS.items() if command.module.startswith(package)}
        lines += ["", f"{heading}:", *(f"  {name:<{width}}  {each.summary}" for name, each in listed.items())]
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` says more; `{PROGRAM} --version` says the version."])


def run_cli(argv: Sequence[str]) -> int | None:
    """Run ``mmbert`` with the arguments ``argv``; returns its exit status, None for 0.

    Raises:
        UserError: bad input.
    """
    if not argv:
        raise UserError(f"no command given; `{PROGRAM} --help` lists them")
    if argv[0] in ("-h", "--help", "help"):
        print(overview())
        return None
    if argv[0] == "--version":
        print(f"{PROGRAM} {__version__}")
        return None
    return dispatch(argv)


def main() -> None:
    """Run the process's command line and exit: the console script ``mmbert``."""
    run_command(partial(run_cli, sys.argv[1:]))


def run_as(name: str, program: str | None = None) -> None:
    """Run the command ``name`` with this process's arguments and exit: what scripts with a name of their own call.

    Args:
        program: the name in its usage; the script's file name when None.
    """
    run_command(partial(dispatch, [name, *sys.argv[1:]], program or Path(sys.argv[0]).name))
