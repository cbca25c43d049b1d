"""Rules of the house: nothing optional is needed at import, files and functions stay short, all is typed."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted([*(ROOT / "megatron_mmbert").rglob("*.py"), *(ROOT / "tools").glob("*.py")])
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
def test_short_and_typed(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), "a module says what it is for"
    for function in functions(path):
        where = f"{path.name}:{function.lineno} {function.name}"
        assert (function.end_lineno or 0) - function.lineno + 1 <= LONGEST_FUNCTION, where
        arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
        untyped = [a.arg for a in arguments if a.annotation is None and a.arg not in ("self", "cls")]
        assert not untyped and function.returns is not None, f"{where}: {untyped or 'return'} has no type"
