"""No dead keys: every key of the recipe's schema is read by code outside of ``config/``.

Reads are found by mypy, which knows the types: ``phase.name`` reads the key of a phase, ``path.name`` does not, and
neither is a word in a comment or the check of a value in its own validator. A key that a property or a method of its
section reads counts if that one is used, by the same rule.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from pydantic import BaseModel
from support import ROOT

from megatron_mmbert.config.recipe import Recipe

pytest.importorskip("mypy")

CONFIG = ROOT / "megatron_mmbert" / "config"
SETTINGS = """\
[mypy]
python_version = 3.11
ignore_missing_imports = True
follow_imports = skip
incremental = False
cache_dir = /dev/null
plugins = {plugin}
"""


class Read(NamedTuple):
    """``member`` is ``Class.name``; ``reader`` the method of a section that reads it, "" outside of ``config/``."""

    member: str
    reader: str


def schema(section: type[BaseModel]) -> Iterator[str]:
    """``Class.field`` of all keys of a section, and of the sections inside it."""
    for name, field in section.model_fields.items():
        yield f"{section.__name__}.{name}"
        for inner in sections_in(field.annotation):
            yield from schema(inner)


def sections_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from sections_in(argument)


def reader_at(path: Path, line: int) -> str | None:
    """``Class.function`` around a line of ``config/``; None where it does not count: validators, functions, fields."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        for inner in node.body if isinstance(node, ast.ClassDef) else []:
            if isinstance(inner, ast.FunctionDef) and inner.lineno <= line <= (inner.end_lineno or 0):
                checks = any("validator" in ast.unparse(decorator) for decorator in inner.decorator_list)
                return None if checks else f"{node.name}.{inner.name}"  # type: ignore[attr-defined]
    return None


def all_reads(folder: Path) -> set[Read]:
    (folder / "mypy.ini").write_text(SETTINGS.format(plugin=ROOT / "tests/support/mypy_reads.py"), encoding="utf-8")
    found = folder / "reads"
    environment = {**os.environ, "MMBERT_ATTRIBUTE_READS": str(found)}
    command = [sys.executable, "-m", "mypy", "--config-file", str(folder / "mypy.ini"), "megatron_mmbert", "tools"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert found.exists(), done.stdout + done.stderr
    reads = set()
    for entry in set(found.read_text(encoding="utf-8").splitlines()):
        name, file, line = entry.rsplit(" ", 2)
        member = name.split(".", 1)[1]
        path = ROOT / file
        reader = reader_at(path, int(line)) if path.is_relative_to(CONFIG) else ""
        if reader is not None:
            reads.add(Read(member, reader))
    return reads


def used(reads: set[Read]) -> set[str]:
    """Members that are read outside of ``config/``, or by a member that is."""
    alive = {""}
    while more := {read.member for read in reads if read.reader in alive} - alive:
        alive |= more
    return alive


def test_every_key_is_read(tmp_path: Path) -> None:
    alive = used(all_reads(tmp_path))
    keys = list(schema(Recipe))
    assert len(keys) > 90
    dead = [key for key in keys if key not in alive]
    assert not dead, f"keys that nothing reads: {', '.join(dead)}"


def test_a_read_in_a_property_counts_if_the_property_is_used() -> None:
    reads = {Read("Phase.a", "Phase.one"), Read("Phase.one", "Phase.two"), Read("Phase.b", "Phase.three")}
    assert "Phase.a" not in used(reads)
    assert used({*reads, Read("Phase.two", "")}) == {"", "Phase.two", "Phase.one", "Phase.a"}
