"""Data of a task: which languages it has, and the examples of a split, read from JSON lines or Parquet and checked.

Examples are read when they are asked for and kept, as several models and seeds use the same ones.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from megatron_mmbert.eval.tasks.definition import NEEDED, TRAINED, Split, Task
from megatron_mmbert.eval.tasks.languages import Language, language_of, script_of
from megatron_mmbert.utils.checksums import checksum
from megatron_mmbert.utils.errors import UserError, nearest

_SHOWN = 60


@dataclass(frozen=True)
class Example:
    """An example by the roles of its columns; ``values`` are texts, or lists of words and of tags."""

    values: dict[str, Any]

    def __getitem__(self, role: str) -> Any:
        return self.values[role]


@dataclass
class TaskData:
    """The files of a task below a folder of data."""

    task: Task
    folder: Path
    _read: dict[tuple[Split, str], list[Example]] = field(default_factory=dict)
    _digests: dict[Path, str] = field(default_factory=dict)

    @cached_property
    def languages(self) -> list[str]:
        """Names of the languages that have all that scoring needs, those the task names or all that are there.

        Raises:
            UserError: a language that the task names is not there, or there is none.
        """
        found = self._found("test")
        if "passages" in NEEDED[self.task.head]:
            found = [name for name in found if self.path("passages", name).is_file()]
        for name in self.task.languages:
            if name not in found:
                path = self.path("test", name)
                raise UserError(f"{path}: no such file; get it, or take {name!r} from the task's languages")
        languages = self.task.languages or found
        if not languages:
            pattern = self.folder / self.task.splits["test"]
            remedy = self.how_to_get() or "name the folder of its data with --data"
            raise UserError(f"task {self.task.name!r}: no file {pattern}; {remedy}")
        return languages

    def how_to_get(self) -> str | None:
        """Return the command that downloads the task's data, if they are not here and are the hub's."""
        if self.task.hub is None or self._found("test"):
            return None
        folder = self.folder / self.task.splits["test"].partition("/")[0]
        return f"hf download {self.task.hub.id} --repo-type dataset --local-dir {folder}"

    def trained_languages(self) -> list[str]:
        """Return the languages that have training and dev data; none of a task that learns nothing."""
        if self.task.head not in TRAINED:
            return []
        return [name for name in self._found("train") if self.path("dev", name).is_file()]

    def path(self, split: Split, language: str) -> Path:
        """Return the file of a split."""
        return self.folder / self.task.splits[split].replace("{language}", language)

    def examples(self, split: Split, language: str, limit: int | None = None, seed: int = 0) -> list[Example]:
        """Return the examples of a split in the file's order; with a ``limit``, a sample of so many by ``seed``.

        Raises:
            UserError: the file is missing, empty, or a line of it is not as the task says.
        """
        key = (split, language)
        if key not in self._read:
            self._read[key] = self._examples(split, language)
        rows = self._read[key]
        if limit is None or len(rows) <= limit:
            return rows
        pick = random.Random(f"{self.task.name} {split} {language} {seed}")
        return [rows[at] for at in sorted(pick.sample(range(len(rows)), limit))]

    def digest(self, split: Split, language: str) -> str:
        """Return the SHA-256 of a split's file; an empty string where there is none."""
        path = self.path(split, language)
        if path not in self._digests:
            self._digests[path] = checksum(path)["sha256"] if path.is_file() else ""
        return self._digests[path]

    def facts(self, language: str) -> Language:
        """Return what is known of a language."""
        role = "words" if self.task.head == "tagging" else "text"
        texts = ("".join(each[role]) for each in self.examples("test", language)[:50])
        return language_of(language, script_of(texts))

    def _found(self, split: Split) -> list[str]:
        pattern = self.task.splits.get(split, "")
        if not pattern:
            return []
        before, _, after = pattern.partition("{language}")
        name = re.compile(re.escape(before) + r"(?P<name>[^/]+?)" + re.escape(after.replace("{language}", "*")))
        found = []
        for path in self.folder.glob(pattern.replace("{language}", "*")):
            match = name.fullmatch(path.relative_to(self.folder).as_posix())
            if match and path.is_file():
                found.append(match["name"])
        return sorted(found)

    def _examples(self, split: Split, language: str) -> list[Example]:
        path = self.path(split, language)
        columns = self.task.passage_columns if split == "passages" else self.task.columns
        rows = _rows(path)
        if not rows:
            raise UserError(f"{path}: no examples in this file; get it again, or take the language out of the task")
        return [Example(self._values(f"{path}:{line}", row, columns)) for line, row in enumerate(rows, 1)]

    def _values(self, place: str, row: Any, columns: dict[str, str]) -> dict[str, Any]:
        if not isinstance(row, dict):
            raise UserError(f"{place}: not an object with columns; task {self.task.name!r} needs {_list(columns)}")
        found = {}
        for role, column in columns.items():
            if column not in row:
                raise UserError(
                    f"{place}: no column {column!r}{nearest(column, map(str, row))}; task {self.task.name!r} needs "
                    f"{_list(columns)}"
                )
            found[role] = self._value(place, role, column, row[column])
        if "words" in found and (not found["words"] or len(found["words"]) != len(found["tags"])):
            words, tags = len(found["words"]), len(found["tags"])
            raise UserError(f"{place}: {words} words and {tags} tags; there must be as many of both, and at least one")
        return found

    def _value(self, place: str, role: str, column: str, value: Any) -> Any:
        if role in ("words", "tags"):
            if not isinstance(value, list | tuple):
                raise UserError(f"{place}: {column} is {_shown(value)}; it must be a list")
            words = [self._word(place, column, each) for each in value]
            return [self._label(place, each) for each in words] if role == "tags" else words
        word = self._word(place, column, value)
        return self._label(place, word) if role == "label" else word

    def _word(self, place: str, column: str, value: Any) -> str:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise UserError(f"{place}: {column} is {_shown(value)}; it must be text")
        return str(value)

    def _label(self, place: str, value: str) -> str:
        label = self.task.label_names.get(value, value)
        if self.task.labels and label not in self.task.labels:
            raise UserError(
                f"{place}: label {_shown(label)}{nearest(label, self.task.labels)} is none of task "
                f"{self.task.name!r}: {', '.join(self.task.labels)}"
            )
        return label


def _rows(path: Path) -> Sequence[Any]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; get it, or take its language out of the task")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.suffix not in (".jsonl", ".json"):
        raise UserError(f"{path}: not a file of JSON lines (.jsonl) or Parquet by its name; convert it")
    rows = []
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                rows.append(json.loads(line))
            except (ValueError, RecursionError) as error:
                raise UserError(f"{path}:{number}: not a line of JSON ({error}); get the file again") from None
    return rows


def _parquet_rows(path: Path) -> list[Any]:
    import pyarrow
    import pyarrow.parquet

    try:
        return list(pyarrow.parquet.read_table(path).to_pylist())
    except pyarrow.ArrowException as error:
        raise UserError(f"{path}: not a Parquet file ({error}); get it again") from None


def _list(columns: dict[str, str]) -> str:
    return ", ".join(map(repr, columns.values()))


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
