"""Private names of torch, Megatron-Core and Python's library: all are there, and all stand in one file."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import pytest
from support import ROOT

from megatron_mmbert import compat

PACKAGE = ROOT / "megatron_mmbert"
SOURCES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "compat.py")
DOCUMENTED = {"_replace", "_asdict", "_fields", "_exit", "_current_frames"}
"""Of named tuples, of ``os``, of ``sys``: they begin with an underscore and are in Python's documentation."""


@pytest.mark.parametrize("row", compat.table(), ids=lambda row: f"{row.owner}.{row.name}")
def test_the_installed_versions_have_every_name(row: compat.PrivateName) -> None:
    installed = f"torch {version('torch')}, megatron-core {version('megatron-core')}, Python {sys.version.split()[0]}"
    assert row.exists(), f"gone from {installed}: {row}"


def test_every_row_is_used() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in SOURCES)
    names = [name for name, value in vars(compat).items() if name.isupper() and not name.startswith("_")]
    assert len(names) > 20
    unused = [name for name in names if f"compat.{name}" not in text and name != "FOREACH"]
    assert not unused and "compat.foreach()" in text


def test_importing_the_table_imports_nothing() -> None:
    code = "import sys, megatron_mmbert.compat; print({'torch', 'megatron', 'concurrent'} & sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_a_name_that_is_gone_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in ("torch", "torch:UntypedStorage", "torch.no_module", "torch:NoClass"):
        row = compat.PrivateName(owner, "_no_such_name", "a test")
        assert not row.exists()
        with pytest.raises((AttributeError, ImportError)):
            row.get()
        with pytest.raises((AttributeError, ImportError)):
            row.replace(None)
    assert not compat.PrivateName("concurrent.futures.process:ProcessPoolExecutor", "_no", "a test", True).exists()


def own_names() -> set[str]:
    """Return every private name that the package itself defines: functions, classes, variables, attributes of self."""
    found: set[str] = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                found.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                found.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and _is_self(node.value):
                found.add(node.attr)
    return found


def _is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def _is_private(name: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in name.split("."))


def foreign(path: Path, own: set[str]) -> Iterator[tuple[int, str]]:
    """(line, name) of each private name in ``path`` that somebody else defines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and _is_private(node.attr) and node.attr not in own | DOCUMENTED:
            yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and not (node.module or "").startswith("megatron_mmbert"):
            names = [node.module or "", *(alias.name for alias in node.names)]
            yield from ((node.lineno, name) for name in names if _is_private(name))


def test_private_names_stand_in_compat_alone() -> None:
    own = own_names()
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}; give it a row in megatron_mmbert/compat.py"
        for path in SOURCES
        for line, name in foreign(path, own)
    ]
    assert not found, "\n".join(found)


def test_a_private_name_elsewhere_is_found(tmp_path: Path) -> None:
    path = tmp_path / "new.py"
    path.write_text("from torch._utils import x\nfrom torch import _y\nimport torch\ntorch._C.z\nself._mine\n")
    assert [line for line, _ in foreign(path, {"_mine"})] == [1, 2, 4]
