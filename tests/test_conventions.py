"""Conventions that ruff cannot check: nothing optional is needed at import, files and functions stay short.

Types of arguments and docstrings of modules are ruff's (``ANN``, ``D100`` in pyproject.toml), the rest of the structure
is in ``tools/checks``; ``bash tools/checks.sh`` runs all of it.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "megatron_mmbert").rglob("*.py"), *(ROOT / "tools").rglob("*.py")])
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

IMPORT_ALL = """
import importlib, pkgutil, sys
class Absent:
    names = ("transformer_engine", "apex", "flash_attn", "triton", "transformers", "pynvml")
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import torch
assert not torch.cuda.is_initialized()
import megatron_mmbert
names = [m.name for m in pkgutil.walk_packages(megatron_mmbert.__path__, "megatron_mmbert.")]
for name in names:
    importlib.import_module(name)
assert not torch.cuda.is_initialized()
print(len(names))
"""


def test_nothing_optional_is_needed_at_import() -> None:
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", IMPORT_ALL], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 60


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_short(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for function in functions(path):
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= LONGEST_FUNCTION, f"{path.name}:{function.lineno} {function.name}"
