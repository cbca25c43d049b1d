"""Reading of suites and tasks: this project's by name, a user's by file."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from megatron_mmbert.config.base import PlacedError, Section
from megatron_mmbert.config.loading import StrictLoader
from megatron_mmbert.eval.tasks.definition import Suite, Task
from megatron_mmbert.utils.errors import UserError, first_line, nearest

_OWN = Path(str(files(__package__)))
_Definition = TypeVar("_Definition", bound=Section)


def suites() -> list[str]:
    """Return the names of this project's suites."""
    return sorted(path.stem for path in (_OWN / "suites").glob("*.yaml"))


def load_suite(name: str) -> tuple[Suite, list[Task]]:
    """Return the suite called ``name``, or in the file ``name``, and its tasks.

    Raises:
        UserError: no such suite or task, a wrong key, a task named twice.
    """
    path = Path(name) if name.endswith((".yaml", ".yml")) else _OWN / "suites" / f"{name}.yaml"
    if not path.is_file():
        hint = nearest(name, suites())
        raise UserError(f"--suite {name}: no such suite or file{hint}; there are {', '.join(suites())}")
    suite = _read(path, Suite)
    tasks = [load_task(each, path.parent) for each in suite.tasks]
    names = [task.name for task in tasks]
    for each in names:
        if names.count(each) > 1:
            raise UserError(f"{path}: two tasks are called {each!r}; rename one of them")
    return suite, tasks


def load_task(name: str, folder: Path) -> Task:
    """Return a task of this project by its name, or that of a file relative to ``folder``.

    Raises:
        UserError: no such task, or a wrong key in it.
    """
    path = folder / name if name.endswith((".yaml", ".yml")) else _OWN / "definitions" / f"{name}.yaml"
    if not path.is_file():
        known = sorted(each.stem for each in (_OWN / "definitions").glob("*.yaml"))
        raise UserError(f"{path}: no such task{nearest(name, known)}; name a task of this project or a YAML file")
    return _read(path, Task)


def data_folder(suite: Suite, given: Path | None) -> Path:
    """Return the folder of data: ``given``, else the first of the suite's that exists.

    Raises:
        UserError: it is not there.
    """
    if given is not None:
        if not given.is_dir():
            raise UserError(f"--data {given}: no such folder; name the one that holds the tasks' files")
        return given
    for name in suite.data:
        if Path(name).is_dir():
            return Path(name)
    looked = f" (looked for {', '.join(suite.data)})" if suite.data else ""
    raise UserError(f"suite {suite.name!r}: its data are not here{looked}; name their folder with --data DIR")


def chosen_tasks(tasks: Sequence[Task], names: Sequence[str]) -> list[Task]:
    """Return the tasks called ``names``; all where none is.

    Raises:
        UserError: no such task.
    """
    known = {task.name: task for task in tasks}
    for name in names:
        if name not in known:
            raise UserError(
                f"--tasks {name}: no such task in this suite{nearest(name, known)}; it has {', '.join(known)}"
            )
    return [task for task in tasks if not names or task.name in names]


def _read(path: Path, kind: type[_Definition]) -> _Definition:
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), StrictLoader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{path}:{mark.line + 1}" if mark else f"{path}"
        raise UserError(
            f"{place}: not valid YAML ({getattr(error, 'problem', None) or first_line(error)}); correct it"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no {kind.__name__.lower()}; write keys such as 'name:' and 'title:'")
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{path}: {_explained(error, kind)}") from None


def _explained(error: ValidationError, kind: type[Section]) -> str:
    """Return the first problem as a sentence with its key."""
    problems = error.errors()
    problem = next((each for each in problems if each["type"] == "extra_forbidden"), problems[0])
    cause: Any = problem.get("ctx", {}).get("error")
    place = cause.place if isinstance(cause, PlacedError) else problem["loc"]
    key = ".".join(str(part) for part in place)
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r}{nearest(str(place[-1]), _keys(kind))}; correct or remove it"
    if problem["type"] == "missing":
        return f"key {key!r} is missing; write it"
    given = f" {problem['input']!r}"[:80] if not isinstance(cause, PlacedError) else ""
    return f"{key}{given}: {problem['msg'].removeprefix('Value error, ')}"


def _keys(kind: type[Section]) -> set[str]:
    """Return all keys of a definition and of its sections."""
    found = set(kind.model_fields)
    for field in kind.model_fields.values():
        inner = [field.annotation, *getattr(field.annotation, "__args__", ())]
        found |= {key for each in inner if isinstance(each, type) and issubclass(each, Section) for key in _keys(each)}
    return found
