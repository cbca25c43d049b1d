"""Check the shape of the package: small folders, small classes, every package in the import contract.

    python tools/checks/structure.py [--root DIR]

A class above the limit says why beside it, in a comment ``# attributes: REASON`` between the line before ``class`` and
its first method.
"""

from __future__ import annotations

import argparse
import ast
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

MAX_FILES = 15
MAX_ATTRIBUTES = 12
REASON = "# attributes: "


def large_packages(package: Path) -> Iterator[str]:
    """Yield a sentence for every folder that holds more than ``MAX_FILES`` modules."""
    for folder in sorted({path.parent for path in package.rglob("*.py")}):
        count = len(list(folder.glob("*.py")))
        if count > MAX_FILES:
            yield f"{folder}: {count} .py files, at most {MAX_FILES}; divide it by what its files do"


def attributes(node: ast.ClassDef) -> set[str]:
    """Return the names of the fields declared in the class and of the attributes its methods assign to ``self``."""
    fields = {
        item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assigned = {
        item.attr
        for item in ast.walk(node)
        if isinstance(item, ast.Attribute)
        and isinstance(item.ctx, ast.Store)
        and isinstance(item.value, ast.Name)
        and item.value.id == "self"
    }
    return fields | assigned


def has_reason(node: ast.ClassDef, lines: list[str]) -> bool:
    """Return whether a reason stands between the line before the class and its first method."""
    first = min((item.lineno for item in node.body if isinstance(item, ast.FunctionDef)), default=node.end_lineno)
    return any(REASON in line for line in lines[max(node.lineno - 2, 0) : first])


def large_classes(package: Path) -> Iterator[str]:
    """Yield a sentence for every class of more than ``MAX_ATTRIBUTES`` attributes that gives no reason for it."""
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                count = len(attributes(node))
                if count > MAX_ATTRIBUTES and not has_reason(node, text.splitlines()):
                    yield (
                        f"{path}:{node.lineno}: class {node.name} has {count} attributes, at most {MAX_ATTRIBUTES}; "
                        f"divide it, or write why beside it: {REASON}..."
                    )


def unlayered(package: Path, settings: Path) -> Iterator[str]:
    """Yield a sentence for every top-level package or module that no layer of the import contract names."""
    contracts = tomllib.loads(settings.read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = [layer for contract in contracts for layer in contract.get("layers", [])]
    named = {name.strip(" ()").split(".")[0] for layer in layers for name in layer.replace(":", "|").split("|")}
    for path in sorted([*package.glob("*/__init__.py"), *package.glob("*.py")]):
        name = path.parent.name if path.parent != package else path.stem
        if name != "__init__" and name not in named:
            yield f"{settings}: no layer of [tool.importlinter] names {name}; add it where its imports allow"


def main() -> int:
    """Print every finding; return 1 if there is one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path(__file__).resolve().parents[2], help="the repository")
    root = parser.parse_args().root
    package = root / "megatron_mmbert"
    found = [*large_packages(package), *large_classes(package), *unlayered(package, root / "pyproject.toml")]
    print("\n".join(found or ["package sizes, attributes and layers are within their limits"]))
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())
