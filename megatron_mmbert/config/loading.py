"""Reading a recipe: preset, YAML and command-line overrides, merged, then validated.

Errors name the file, the line, the value and the remedy; an unknown key names the nearest known one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.config.renamed_keys import Part, current_path, parts_of, rename_keys
from megatron_mmbert.utils.errors import UserError, nearest
from megatron_mmbert.utils.files import atomic_file

Location = tuple[str | int, ...]
MAX_DEPTH = 50
"""Levels of a recipe's YAML, anchors followed; its schema has six."""
MAX_NODES = 100_000
"""Values of a recipe, anchors followed."""
_SHOWN = 80
_PATHS = (("tokenizer", "path"), ("data", "stores"), ("evaluation", "stores"), ("phases", "languages", "table"))
_WEIGHT_TABLES = ("sources", "boost")


def presets() -> list[str]:
    """Names that a recipe's ``preset:`` may take."""
    return sorted(path.name.removesuffix(".yaml") for path in files(__package__).joinpath("presets").iterdir())


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, merge and validate a recipe.

    Args:
        path: the YAML file; its ``preset: NAME`` is read first and the file laid over it (phases by name).
        overrides: ``key.path=value``; list items by their ``name`` (``phases.decay_all.tokens=1B``) or index.

    Raises:
        UserError: no such file, bad YAML, an unknown key, a value out of range.
    """
    written, lines = _read_yaml(path)
    written, renamed = _renamed(written, path)
    chosen = written.pop("preset", None)
    if chosen is None:
        values = written
    else:
        values = _merge(_read_preset(str(chosen), f"{path}:{lines.get(('preset',), 1)}"), written)
    _place_paths(values, path.parent)
    places = {current_path(location): f"{path}:{line}" for location, line in lines.items()}
    changes = [(override, part) for override in overrides for part in _override_parts(override)]
    _check_given_once([part for _, part in changes])
    for override, part in changes:
        places[_apply_override(values, override, part)] = f"override {override!r}"
    _warn(path, [*renamed, *(part for _, part in changes if part.is_renamed)])
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        raise UserError(_explain(error, path, places, values)) from None


def preset_recipe(name: str, tokenizer: Path, stores: Sequence[Path]) -> Recipe:
    """Return the preset ``name`` as a recipe that trains on ``stores``.

    Raises:
        UserError: no such preset.
    """
    values = _read_preset(name, "--preset")
    paths = {"name": name, "tokenizer": {"path": str(tokenizer)}, "data": {"stores": [str(store) for store in stores]}}
    return Recipe.model_validate(_merge(values, paths))


def save_recipe(recipe: Recipe, path: Path) -> None:
    """Write the resolved recipe; :func:`load_recipe` reads it back to an equal one."""
    with atomic_file(path) as staging:
        staging.write_text(yaml.safe_dump(recipe.to_dict(), sort_keys=False, allow_unicode=True), encoding="utf-8")


def lookup(values: Any, path: str) -> Any:
    """Return the value at ``key.key.key``; of a list, items are found by their ``name`` or index.

    Raises:
        UserError: no such key.
    """
    for key in path.split("."):
        if isinstance(values, list):
            values = {
                str(item.get("name", at)) if isinstance(item, dict) else str(at): item for at, item in enumerate(values)
            }
        if not isinstance(values, dict) or key not in values:
            known = [str(name) for name in values] if isinstance(values, dict) else []
            raise UserError(f"{path}: the recipe has no key {key!r} there{nearest(key, known)}")
        values = values[key]
    return values


def _read_preset(name: str, where: str) -> dict[str, Any]:
    if name not in presets():
        raise UserError(f"{where}: no preset {name!r}{nearest(name, presets())}; choose from {', '.join(presets())}")
    return dict(yaml.safe_load(files(__package__).joinpath("presets", f"{name}.yaml").read_text(encoding="utf-8")))


def _place_paths(values: Any, folder: Path, location: tuple[str, ...] = ()) -> None:
    """Take paths of a recipe from its own ``folder`` where they lead nowhere from the working directory."""
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        place = (*location, key) if isinstance(key, str) else location
        if isinstance(value, dict | list):
            _place_paths(value, folder, place)
        elif place in _PATHS and isinstance(value, str) and not Path(value).exists() and (folder / value).exists():
            values[key] = str(folder / value)


class StrictLoader(yaml.SafeLoader):
    """SafeLoader that bounds what a document may become, and refuses a key written twice (YAML keeps the last).

    An anchor counts as often as it is named: a few lines can stand for billions of values.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._open = 0
        self._extent: dict[int, tuple[int, int]] = {}  # by node: itself and all below it, and how deep they go

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        mark, is_alias = self.peek_event().start_mark, self.check_event(yaml.AliasEvent)
        self._open += 1
        _refuse_if(self._open > MAX_DEPTH, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._open -= 1
        if node is None or id(node) in self._extent:
            return node
        _refuse_if(is_alias, "an anchor that holds itself", mark)  # what it names is not yet whole
        below = node.value if isinstance(node, yaml.CollectionNode) else []
        children = [each for pair in below for each in (pair if isinstance(pair, tuple) else (pair,))]
        extents = [self._extent[id(child)] for child in children]
        count = 1 + sum(extent[0] for extent in extents)
        depth = 1 + max((extent[1] for extent in extents), default=0)
        _refuse_if(count > MAX_NODES, f"stands for more than {MAX_NODES:,} values", mark)
        _refuse_if(depth > MAX_DEPTH, f"nested more than {MAX_DEPTH} deep", mark)
        self._extent[id(node)] = (count, depth)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except yaml.YAMLError:
            raise
        except Exception:  # of Python's own types: a date that is none, a number of thousands of digits, ...
            kind = node.tag.rpartition(":")[2]
            _refuse_if(True, f"{_shown(str(node.value))} is no {kind}", node.start_mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            key = str(key_node.value)
            _refuse_if(key in seen, f"key {_shown(key)} is written twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _refuse_if(problem: object, sentence: str, mark: Any) -> None:
    if problem:
        raise yaml.constructor.ConstructorError(problem=sentence, problem_mark=mark)


def _parse(text: str) -> tuple[Any, yaml.Node | None]:
    """Return the values of YAML that a user wrote, and its nodes.

    Raises:
        _NotYaml: it is none, or more than a recipe can be.
    """
    try:
        loader = StrictLoader(text)
        node = loader.get_single_node()
        return (None if node is None else loader.construct_document(node)), node
    except yaml.MarkedYAMLError as error:
        raise _NotYaml(error.problem, error.problem_mark.line + 1 if error.problem_mark else 1) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _NotYaml(f"the control character {hex(error.character)}", line) from None


class _NotYaml(Exception):
    """A text that is no YAML: ``args`` are the problem and its line."""


def _read_yaml(path: Path) -> tuple[dict[str, Any], dict[Location, int]]:
    try:
        values, node = _parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such recipe; name an existing YAML file") from None
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not a YAML text file ({error}); name a recipe") from None
    except _NotYaml as error:
        problem, line = error.args
        raise UserError(f"{path}:{line}: not valid YAML ({problem}); correct that line") from None
    if not isinstance(values, dict) or node is None:
        raise UserError(f"{path}: holds no recipe; write keys such as 'name:', 'model:', 'phases:'")
    return values, dict(_lines(node, ()))


def _lines(node: yaml.Node, at: Location) -> Iterator[tuple[Location, int]]:
    """The line of every key and list item; items with a name are found by it, wherever merging puts them."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield (*at, key.value), key.start_mark.line + 1
            yield from _lines(value, (*at, key.value))
    elif isinstance(node, yaml.SequenceNode):
        for number, item in enumerate(node.value):
            place = (*at, _node_name(item) or number)
            yield place, item.start_mark.line + 1
            yield from _lines(item, place)


def _node_name(node: yaml.Node) -> str | None:
    if isinstance(node, yaml.MappingNode):
        names = (value for key, value in node.value if key.value == "name")
        return next((name.value for name in names if name.tag == "tag:yaml.org,2002:str"), None)
    return None


def _merge(below: Any, above: Any) -> Any:
    """``above`` laid over ``below``: mappings by key, lists of named items by name, all else replaced.

    A key whose value above is null falls back to its default. An item's tables of weights are replaced whole: they are
    one mixture, and keys of the table below could not be taken out of it otherwise.
    """
    if isinstance(below, dict) and isinstance(above, dict):
        merged = below | {key: _merge(below.get(key), value) for key, value in above.items()}
        return {key: value for key, value in merged.items() if above.get(key, value) is not None}
    if _named(below) and _named(above):
        items = {item["name"]: item for item in below}
        merged, repeated = dict(items), []
        for number, item in enumerate(above):
            laid = _merge_item(items.get(item["name"], {}), item)
            if any(item["name"] == earlier["name"] for earlier in above[:number]):
                repeated.append(laid)  # for the validation to refuse
            else:
                merged[item["name"]] = laid
        return [*merged.values(), *repeated]
    return above


def _merge_item(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    whole = {key: above[key] for key in _WEIGHT_TABLES if above.get(key) is not None}
    return _merge(below, above) | whole


def _named(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(_has_name(item) for item in value)


def _has_name(item: Any) -> bool:
    return isinstance(item, dict) and isinstance(item.get("name"), str)


def _override_parts(override: str) -> list[Part]:
    """Return what ``key.path=value`` sets; a section under an old name may be of several parts."""
    key, equals, text = override.partition("=")
    if not equals or not key or key.count(".") > MAX_DEPTH:
        raise UserError(f"{_shown(override)}: not an override; write key.path=value")
    try:
        value, _ = _parse(text)
    except _NotYaml as error:
        raise UserError(f"{_shown(override)}: the value is not valid YAML; quote it ({error.args[0]})") from None
    return list(parts_of(value, tuple(key.split("."))))


def _apply_override(values: dict[str, Any], override: str, part: Part) -> Location:
    """Set a part of an override in ``values``; return its location, with list items by their names."""
    key = override.partition("=")[0]
    *parents, last = map(str, part.path)
    place: Any = values
    for each in parents:
        place = _child(place, each, key)
    if isinstance(place, list):
        place[_index(place, last, key)] = part.value
    else:
        place[last] = part.value
    return _locate(tuple(int(each) if each.isdigit() else each for each in (*parents, last)), values)


def _check_given_once(parts: Sequence[Part]) -> None:
    """Raise UserError if overrides give a key under its old and its new name: neither is meant to win."""
    plain = {part.path for part in parts if not part.is_renamed}
    for part in parts:
        if part.is_renamed and part.path in plain:
            raise UserError(part.given_twice())


def _renamed(values: dict[str, Any], path: Path) -> tuple[dict[str, Any], list[Part]]:
    try:
        return rename_keys(values)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _warn(path: Path, renamed: Sequence[Part]) -> None:
    """Say in one sentence which keys have new names; of several ranks one says it."""
    if renamed and os.environ.get("RANK", "0") == "0":
        listed = ", ".join(dict.fromkeys(part.describe() for part in renamed))
        print(f"warning: {path}: {listed}; the old names still work, but write the new ones", file=sys.stderr)


def _child(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    child = place.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise UserError(f"{key}: {part!r} holds a value, not a section; shorten the key")
    return child


def _index(items: list[Any], part: str, key: str) -> int:
    names = [str(item.get("name")) if isinstance(item, dict) else "" for item in items]
    if part in names:
        return names.index(part)
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise UserError(f"{key}: no item {part!r}{nearest(part, names)}; choose from {', '.join(names)}")


def _explain(error: ValidationError, path: Path, places: dict[Location, str], values: dict[str, Any]) -> str:
    """One sentence for the first problem (an unknown key before all else: it often causes the others)."""
    problems = [(_place_of(each, values), each) for each in error.errors()]
    first = min(problems, key=lambda each: each[1]["type"] != "extra_forbidden")[0]
    # A value of several forms (a number or {from, to}) fails once per form; the form that got furthest was meant.
    same_value = [each for each in problems if each[0][: len(first)] == first]
    located, problem = max(same_value, key=lambda each: (each[1]["type"] == "extra_forbidden", len(each[0])))
    where = next((places[located[:n]] for n in range(len(located), 0, -1) if located[:n] in places), str(path))
    key = ".".join(str(part) for part in located) or "recipe"
    if problem["type"] == "extra_forbidden":
        known = _known_keys(located[:-1])
        return f"{where}: unknown key {key!r}{nearest(str(located[-1]), known)}; known here: {', '.join(known)}"
    if problem["type"] == "missing":
        return f"{where}: {key!r} is missing; add it"
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    value = f" {_shown(given)}" if isinstance(given, str | int | float | bool) else ""
    return f"{where}: {key}{value}: {message}"


def _shown(value: str | float) -> str:
    try:
        text = repr(value)
    except ValueError:
        return "of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _place_of(problem: Any, values: dict[str, Any]) -> Location:
    """Keys of the YAML that the problem is about; a check over several keys says by itself which one it means."""
    located = _locate(problem["loc"], values, missing=problem["type"] == "missing")
    return (*located, *getattr(problem.get("ctx", {}).get("error"), "place", ()))


def _locate(location: Location, values: Any, missing: bool = False) -> Location:
    """Pydantic's place of an error, as keys of the YAML: union branches dropped, named list items by name."""
    place: Any = values
    found: list[str | int] = []
    for part in location:
        if isinstance(place, list):
            names = [item["name"] if _has_name(item) else number for number, item in enumerate(place)]
            number = names.index(part) if part in names else part
            if isinstance(number, int) and number < len(place):
                place = place[number]
                found.append(names[number])
        elif isinstance(place, dict) and part in place:
            place = place[part]
            found.append(part)
        elif missing and part == location[-1] and isinstance(place, dict):
            found.append(part)
    return tuple(found)


def _known_keys(location: Location) -> list[str]:
    """Keys that the section at ``location`` may have."""
    model: Any = Recipe
    for part in location:
        fields = model.model_fields if isinstance(model, type) and issubclass(model, BaseModel) else {}
        by_key = {field.alias or name: field.annotation for name, field in fields.items()}
        model = _section_of(by_key[str(part)]) if str(part) in by_key else model
    return [field.alias or name for name, field in model.model_fields.items()]


def _section_of(annotation: Any) -> Any:
    """The BaseModel inside an annotation such as ``Annotated[list[Phase], ...]`` or ``MergeConfig | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    inner = [_section_of(argument) for argument in getattr(annotation, "__args__", ())]
    return next((model for model in inner if model is not None), None)
