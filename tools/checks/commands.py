"""Check that the documented commands parse, without running them.

    python tools/checks/commands.py [--root DIR]

Read are the ``bash`` blocks of all Markdown files, and commands in backticks, which may leave out arguments:

- ``python FILE``, ``python -m MODULE``, ``mmbert COMMAND``, also after ``torchrun`` or ``srun``: the file is there, its
  own parser takes the arguments (the command is started with a parser that ends it as soon as it has parsed);
- ``bash FILE`` and ``sbatch FILE``: the file is there and names each of its options;
- ``key.path=value`` and keys in backticks: the recipe has that key.

``$VARIABLE``, WORDS in capitals and ``...`` stand for values.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import re
import runpy
import shlex
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # also runs from a checkout that is not installed
sys.path.insert(0, str(Path(__file__).resolve().parent))

from links import FENCE, files

ANY_VALUE = re.compile(r"\$\{?\w+\}?|\b[A-Z][A-Z0-9_]+\b|\b[A-Z]\b|\.\.\.|…")
"""What stands for a value that the reader fills in."""
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=\S*")
OVERRIDE = re.compile(r"([a-z_]+(?:\.\w+)+)=")
KEY = re.compile(r"[a-z_]+(\.[a-z0-9_]+)+(?<!\.json)(?<!\.jsonl)(?<!\.yaml)(=.*)?")
LAUNCHERS = ("srun", "sbatch", "exec", "time", "nohup")
SHELL_WORDS = ("for", "do", "done", "then", "if", "else", "fi", "while")


@dataclass(frozen=True)
class Command:
    """One documented command: its words, its position, and whether it is whole or a fragment in a sentence."""

    words: tuple[str, ...]
    place: str
    whole: bool


class Parsed(BaseException):
    """Raised where a command's parser has accepted its arguments; no handler of the command catches it."""


class Rejected(BaseException):
    """Raised where a command's parser has rejected them."""


def commands(path: Path, root: Path) -> Iterator[Command]:
    """Yield the commands of a Markdown file."""
    fence, pending = None, ""
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        place = f"{path.relative_to(root)}:{number}"
        if FENCE.match(line):
            fence = None if fence is not None else line.strip(" `~")
        elif fence == "bash":
            pending += line.rstrip("\\").strip() + " "
            if not line.endswith("\\"):
                yield from (Command(words, place, "..." not in pending) for words in split(pending))
                pending = ""
        elif fence is None:
            for text in re.findall(r"`([^`]+)`", line):
                if re.match(r"(python3?|bash|sbatch|torchrun|mmbert) |tools/\w+\.py ", text) or KEY.fullmatch(text):
                    yield from (Command(words, place, False) for words in split(text))


def split(line: str) -> Iterator[tuple[str, ...]]:
    """Yield the words of each simple command of a shell line; a comment that cannot be quoted ends it."""
    lexer = shlex.shlex(re.sub(r"(?<!\S)#.*$", "", line), posix=True, punctuation_chars=";&|")
    lexer.whitespace_split = True
    lexer.commenters = ""
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set(";&|"):
            if words:
                yield tuple(words)
            words = []
        elif words or not (ASSIGNMENT.fullmatch(word) or word in SHELL_WORDS):
            words.append(word)


class Checker:
    """The commands of one repository: finds what is wrong with one of them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def problem(self, command: Command) -> str | None:
        """Return a sentence about what is wrong with the command, None where nothing is."""
        words = [word for word in command.words if word not in ("...", "…", "[...]")]
        while words and words[0] in LAUNCHERS and not any(word.endswith(".sh") for word in words):
            words = words[
                next((i for i, word in enumerate(words) if "python" in word or word == "mmbert"), len(words)) :
            ]
        if not words:
            return None
        head, rest = words[0], words[1:]
        if head.endswith(("python", "python3")):
            return self.python(rest, command.whole)
        if head == "torchrun":
            return self.torchrun(rest, command.whole)
        if head == "mmbert" or head.endswith("/mmbert"):
            return self.verb(rest, command.whole)
        if head in ("bash", "sbatch"):
            return self.script(rest)
        if re.fullmatch(r"tools/\w+\.py", head):
            return self.python(words, command.whole)
        if KEY.fullmatch(head) and len(words) == 1:
            return self.recipe_key(head)
        return None

    def python(self, words: list[str], whole: bool) -> str | None:
        """Check the words after ``python``."""
        if words[:1] == ["-m"] and len(words) > 1:
            if not words[1].startswith("megatron_mmbert") or "*" in words[1]:
                return None
            path = self.root / words[1].replace(".", "/")
            if not (path.with_suffix(".py").exists() or (path / "__main__.py").exists()):
                return f"there is no module {words[1]}"
        elif words and words[0].endswith(".py"):
            if not (self.root / words[0]).exists():
                return f"there is no {words[0]}"
        else:
            return None
        return self.parse(words, whole)

    def torchrun(self, words: list[str], whole: bool) -> str | None:
        """Check torchrun's own options, then those of the program it starts."""
        from torch.distributed.run import get_args_parser

        words = [word for word in words if not word.startswith("[")]
        parser = get_args_parser()
        status, parsed = quietly(lambda: argparse.ArgumentParser.parse_known_args(parser, words), whole)
        if parsed is None:
            return status
        arguments, unknown = parsed
        if unknown:
            return f"torchrun has no option {unknown[0]}"
        flag = ["-m"] if arguments.module else []
        return self.python([*flag, arguments.training_script, *arguments.training_script_args], whole)

    def script(self, words: list[str]) -> str | None:
        """Check that a shell script is there, and that it or the library it sources names the options after it."""
        at = next((i for i, word in enumerate(words) if word.endswith(".sh")), None)
        if at is None:
            return None
        path = self.root / words[at]
        if not path.exists():
            return f"there is no {words[at]}"
        if words[at] == "tests/run.sh":
            return None  # what follows are pytest's options
        text = "".join(file.read_text(encoding="utf-8") for file in (path, path.parent / "lib.sh") if file.exists())
        unknown = [word for word in words[at + 1 :] if word.startswith("--") and word.split("=")[0] not in text]
        if unknown:
            return f"{words[at]} has no option {unknown[0]}"
        return next(filter(None, map(self.override, words[at + 1 :])), None)

    def parse(self, words: list[str], whole: bool) -> str | None:
        """Start a Python command with a parser that ends it; return what the parser said against the arguments."""
        module, arguments = (words[1], words[2:]) if words[0] == "-m" else (None, words[1:])
        file = str(self.root / words[0])

        def start() -> None:
            sys.argv = [file, *arguments]
            if module:
                runpy.run_module(module, run_name="__main__", alter_sys=False)
            else:
                sys.path.insert(0, os.path.dirname(file))  # as Python does with a script's folder
                runpy.run_path(file, run_name="__main__")

        status, _ = quietly(start, whole)
        return status or next(filter(None, map(self.override, arguments)), None)

    def verb(self, words: list[str], whole: bool) -> str | None:
        """Check the words after ``mmbert``."""
        from megatron_mmbert.cli import main as console_script

        def start() -> None:
            sys.argv = ["mmbert", *words]
            console_script()

        status, _ = quietly(start, whole)
        return status or next(filter(None, map(self.override, words)), None)

    def override(self, word: str) -> str | None:
        """Check the key of a ``key.path=value``."""
        match = OVERRIDE.match(word)
        return self.recipe_key(match[1]) if match else None

    def recipe_key(self, word: str) -> str | None:
        """Check a dotted key; where its first part is no section of the recipe, it is something else."""
        from megatron_mmbert.config.recipe import Recipe

        keys = word.split("=")[0].split(".")
        return missing_key(Recipe, keys) if keys[0] in names(Recipe) else None


def names(model: Any) -> dict[str, Any]:
    """Return the keys of a section as a YAML file has them, with their fields."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def missing_key(model: Any, keys: list[str]) -> str | None:
    """Return a sentence about the first of the keys that the recipe does not have."""
    at = 0
    while at < len(keys):
        fields = names(model)
        if keys[at] not in fields:
            return f"the recipe has no key {'.'.join(keys[: at + 1])}"
        sections = list(sections_of(fields[keys[at]].annotation))
        annotation = str(fields[keys[at]].annotation)
        at += 2 if annotation.startswith(("list[", "dict[", "typing.Annotated[list")) else 1
        if not sections:
            return None
        model = sections[0]
    return None


def sections_of(annotation: Any) -> Iterator[Any]:
    """Yield the sections inside a field's annotation: of ``list[Phase]``, ``MergeConfig | None``, ..."""
    if hasattr(annotation, "model_fields"):
        yield annotation
    for inner in getattr(annotation, "__args__", ()):
        yield from sections_of(inner)


def quietly(start: Callable[[], Any], whole: bool) -> tuple[str | None, Any]:
    """Call ``start`` with argparse changed as :func:`ending_parser` does; return (problem, its value)."""
    argv, path, said = sys.argv, list(sys.path), io.StringIO()
    try:
        with ending_parser(whole), warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            with contextlib.redirect_stderr(said):
                return None, start()
    except Parsed:
        return None, None
    except Rejected as error:
        return str(error), None
    except SystemExit as end:
        return (f"ended with {end.code} before it parsed: {said.getvalue().strip()}" if end.code else None), None
    finally:
        sys.argv, sys.path[:] = argv, path


@contextlib.contextmanager
def ending_parser(whole: bool) -> Iterator[None]:
    """Make argparse raise :class:`Parsed` when it has parsed, and take placeholders for values of any type.

    A command that is not ``whole`` may lack required arguments.
    """
    from megatron_mmbert.cli import Parser

    parser, own_error = argparse.ArgumentParser, Parser.error
    saved = {
        name: getattr(parser, name)
        for name in ("parse_args", "parse_intermixed_args", "error", "_get_value", "_check_value")
    }

    def ending(parse: Callable[..., Any]) -> Callable[..., Any]:
        def parse_then_end(self: Any, args: Any = None, namespace: Any = None) -> NoReturn:
            self.error = functools.partial(error, self)  # also where a subclass has its own
            for action in [] if whole else self._actions:
                action.required = False
                action.nargs = (
                    action.nargs if action.option_strings else {None: "?", "+": "*"}.get(action.nargs, action.nargs)
                )
            parse(self, args, namespace)
            raise Parsed

        return parse_then_end

    def error(self: Any, message: str) -> NoReturn:
        if not whole and re.search(r"expected .* argument", message):
            raise Parsed
        raise Rejected(f"{os.path.basename(self.prog)}: {message}")

    def get_value(self: Any, action: Any, text: str) -> Any:
        return text if ANY_VALUE.search(text) else saved["_get_value"](self, action, text)

    def check_value(self: Any, action: Any, value: Any) -> None:
        if not (isinstance(value, str) and ANY_VALUE.search(value)):
            saved["_check_value"](self, action, value)

    try:
        parser.parse_args = ending(saved["parse_args"])  # type: ignore[method-assign]
        parser.parse_intermixed_args = ending(saved["parse_intermixed_args"])  # type: ignore[method-assign]
        parser.error, parser._get_value, parser._check_value = error, get_value, check_value  # type: ignore
        Parser.error = error  # type: ignore[method-assign]
        yield
    finally:
        Parser.error = own_error  # type: ignore[method-assign]
        for name, method in saved.items():
            setattr(parser, name, method)


def main() -> int:
    """Print every finding; return 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="the repository")
    root = parser.parse_args().root.resolve()
    os.chdir(root)
    checker = Checker(root)
    every = [command for page in files(root, ".md") for command in commands(page, root)]
    found = [
        f"{command.place}: `{shlex.join(command.words)}`: {problem}"
        for command in every
        if (problem := checker.problem(command))
    ]
    print("\n".join(found or [f"{len(every)} commands and keys parse"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
