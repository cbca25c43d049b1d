"""Write docs/reference/recipe.md and docs/reference/commands.md from the recipe's schema and the commands' parsers.

    python tools/make_reference.py [--check]

``--check`` writes nothing and ends with 1 if a page is not what would be written.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # also runs from a checkout that is not installed

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.renamed_keys import RENAMED_KEYS
from megatron_mmbert.config.values import LinearRamp, Within

ROOT = Path(__file__).resolve().parents[1]
RECIPE_HEAD = """# Recipe reference

Every key of a recipe's YAML file. This page is written by `python tools/make_reference.py` from the schema in
`megatron_mmbert/config/`; a key that is not here is an error with the nearest name.

A value that is not given is the preset's (`preset: NAME` at the top of the file), else the default below. In a command
line any key can be replaced: `phases.midtrain.tokens=10B`; items of `phases` are found by their name. `python -m
megatron_mmbert.config.show RECIPE.yaml KEY` prints a value after all of this.

*count*: a whole number, also as `4_718_592`, `600B` or `2.3T`. *schedule*: a number, or `{from: A, to: B}`, which
changes linearly over the phase's tokens.
"""
RENAMED_HEAD = """## Renamed keys

A key is also read under its old name, in a file, on the command line and from an old checkpoint.

| old | today |
|---|---|"""
COMMANDS_HEAD = """# Command reference

Every command with its arguments. This page is written by `python tools/make_reference.py` from the parsers.

All commands end bad input with one sentence and status 2, write whole outputs or none, and show progress when they take
long.
"""
UNITS = {
    r"(^|_)tokens($|_)|max_length|vocab_size$": "tokens",
    r"_seconds$": "s",
    r"_minutes$": "min",
    r"_tflops$": "TFLOP/s",
    r"_steps$": "steps",
    r"_elements$": "elements",
    r"epochs$": "epochs",
    r"^num_layers$|^layers_per_stage$|^global_attention_every$": "layers",
    r"^window_each_side$": "tokens",
}


def main() -> int:
    """Write both pages, or compare them with what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="compare only")
    check = parser.parse_args().check
    pages = {"recipe.md": recipe_page(), "commands.md": commands_page()}
    stale = [f"{path or 'the recipe'}: {name} has no docstring" for path, name in undocumented()]
    for name, text in pages.items():
        path = ROOT / "docs" / "reference" / name
        if check and (not path.exists() or path.read_text(encoding="utf-8") != text):
            stale.append(f"{path.relative_to(ROOT)} is not up to date; run: python tools/make_reference.py")
        elif not check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
    print(
        "\n".join(stale)
        or f"{'up to date' if check else 'wrote'}: {', '.join(f'docs/reference/{name}' for name in pages)}"
    )
    return bool(stale)


def recipe_page() -> str:
    """Return the page about the recipe's keys: a table for each section, in the order of the file."""
    parts = [RECIPE_HEAD]
    for path, section in sections(Recipe, ""):
        parts.append(f"## {path or 'Top level'}\n" if path.count(".") < 1 else f"### {path}\n")
        if path and section.__doc__:
            parts.append(clean(section.__doc__) + "\n")
        parts.append("| key | type | default | unit | meaning |\n|---|---|---|---|---|")
        for name, field in section.model_fields.items():
            row = (
                f"`{field.alias or name}`",
                type_text(field),
                default_text(field),
                unit(name),
                clean(field.description or section_link(field)),
            )
            parts.append("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |")
        parts.append("")
    renamed = [f"| <code>{old}</code> | `{new}` |" for old, new in RENAMED_KEYS.items()]
    return "\n".join([*parts, RENAMED_HEAD, *renamed]) + "\n"


def section_link(field: FieldInfo) -> str:
    """Return where the keys of a field that is a section stand."""
    return "see below" if list(inner_sections(field.annotation)) else ""


def undocumented() -> Iterator[tuple[str, str]]:
    """Yield (section, key) of the keys that have no text; sections have theirs at their own heading."""
    for path, section in sections(Recipe, ""):
        for name, field in section.model_fields.items():
            if not field.description and not list(inner_sections(field.annotation)):
                yield path, field.alias or name


def sections(model: type[BaseModel], path: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """Yield (path, class) of a section and of all sections inside it."""
    yield path, model
    for name, field in model.model_fields.items():
        for inner, kind in inner_sections(field.annotation):
            key = field.alias or name
            below = {"list": f"{key}.NAME", "dict": f"{key}.NAME", "": key}[kind]
            yield from sections(inner, f"{path}.{below}" if path else below)


def inner_sections(annotation: Any, kind: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """Yield the sections of an annotation, and whether they are items of a list or values of a dictionary."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if annotation is not LinearRamp:
            yield annotation, kind
        return
    origin = typing.get_origin(annotation)
    kind = {list: "list", dict: "dict"}.get(origin, kind)  # type: ignore[call-overload]
    for inner in typing.get_args(annotation):
        yield from inner_sections(inner, kind)


def clean(text: str) -> str:
    """Return a docstring as one line of Markdown."""
    text = re.sub(r":\w+:`~?\.?([^`]+)`", r"`\1`", " ".join(inspect.cleandoc(text).split()))
    return text.replace("``", "`").replace("<", "&lt;") if "`<" not in text else text.replace("``", "`")


def type_text(field: FieldInfo) -> str:
    """Return a field's type in a reader's words, with its bounds."""
    return annotation_text(field.annotation, field.metadata)


def annotation_text(annotation: Any, metadata: typing.Sequence[Any] = ()) -> str:
    """Return an annotation in a reader's words."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return annotation_text(arguments[0], arguments[1:])
    if origin is Literal:
        return ", ".join(f"`{value}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(annotation_text(each) for each in arguments if each is not type(None))
    if origin in (list, tuple):
        return "list of " + annotation_text(arguments[0])
    if origin is dict:
        return "name: " + annotation_text(arguments[1])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "schedule" + bounds_text(metadata) if annotation is LinearRamp else "section"
    names = {int: "whole number", float: "number", str: "text", bool: "`true`, `false`", Path: "path"}
    if any(type(each).__name__ == "BeforeValidator" for each in metadata) and annotation is int:
        return "count" + bounds_text(metadata)
    return names.get(annotation, getattr(annotation, "__name__", str(annotation))) + bounds_text(metadata)


def bounds_text(metadata: typing.Sequence[Any]) -> str:
    """Return the range among a field's metadata: ``, between 1 and 1,000``."""
    ranges = [each.func.range for each in metadata if isinstance(getattr(each, "func", None), Within)]
    return f", {ranges[0]}" if ranges else ""


def default_text(field: FieldInfo) -> str:
    """Return a field's default as YAML would have it."""
    if field.is_required():
        return "**required**"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, LinearRamp):
        return f"`{value.start:g}`"
    if isinstance(value, BaseModel):
        return ""
    if value is None:
        return "none"
    return f"`{json.dumps(value, default=str)}`" if not isinstance(value, str) else f"`{value}`"


def unit(name: str) -> str:
    """Return the unit that a key's name says."""
    return next((text for pattern, text in UNITS.items() if re.search(pattern, name)), "")


def commands_page() -> str:
    """Return the page about the commands: the help of each parser."""
    from megatron_mmbert import cli

    overview = [f"| [`{name}`](#{cli.PROGRAM}-{name}) | {command.summary} |" for name, command in cli.COMMANDS.items()]
    parts = [COMMANDS_HEAD, f"| `{cli.PROGRAM}` | does |\n|---|---|", *overview, ""]
    for name in cli.COMMANDS:
        parser = argparse.ArgumentParser(prog=f"{cli.PROGRAM} {name}")
        cli.add_command(parser, name)
        parts += [f"## {cli.PROGRAM} {name}", "", *command_parts(parser), ""]
    return "\n".join(parts).rstrip() + "\n"


def command_parts(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the description, the examples and the table of arguments of a command."""
    if parser.description:
        yield from (clean(part) + "\n" for part in re.split(r"\n\s*\n", inspect.cleandoc(parser.description)))
    if parser.epilog:
        lines = [line.strip() for line in parser.epilog.splitlines() if line.startswith(" ")]
        yield "```bash\n" + "\n".join(lines) + "\n```\n"
    yield "| argument | default | meaning |\n|---|---|---|"
    formatter = parser._get_formatter()
    for action in parser._actions:
        if action.default == argparse.SUPPRESS or action.help == argparse.SUPPRESS:
            continue
        value = formatter._format_args(action, action.dest.upper()).strip()
        name = f"{', '.join(action.option_strings)} {value}".strip() if action.option_strings else value
        default = "**required**" if action.required and action.option_strings else ""
        if action.dest == "workers" and action.default == os.cpu_count():
            default = "all cores"
        elif action.default not in (None, False, []):
            default = f"`{action.default}`"
        text = formatter._expand_help(action) if action.help else ""
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in (f"`{name}`", default, clean(text))) + " |"


if __name__ == "__main__":
    sys.exit(main())
