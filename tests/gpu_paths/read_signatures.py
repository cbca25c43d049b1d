"""Write the signatures that this project calls in a GPU library, read from its files without importing them.

    python -m pip download --no-deps transformer-engine==2.13.0
    python tests/gpu_paths/read_signatures.py transformer_engine-2.13.0-py3-none-any.whl     # or a .tar.gz, or a folder

It writes signatures/NAME-VERSION.json beside this file; test_signatures.py binds our calls to each. For PyTorch give
site-packages with ``--name torch --version 2.13.0``. The difference between two files is what a new version changed.
"""

from __future__ import annotations

import argparse
import ast
import json
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
_TE = "transformer_engine/pytorch/"
_ATTENTION = f"{_TE}attention/dot_product_attention/dot_product_attention.py"
_RECIPE = "transformer_engine/common/recipe/__init__.py"
# Public module and name (a method after a dot) -> the file that defines it.
WANTED = {
    "transformer_engine": {
        "transformer_engine.pytorch:Linear": f"{_TE}module/linear.py",
        "transformer_engine.pytorch:Linear.forward": f"{_TE}module/linear.py",
        "transformer_engine.pytorch:DotProductAttention": _ATTENTION,
        "transformer_engine.pytorch:DotProductAttention.forward": _ATTENTION,
        "transformer_engine.pytorch:fp8_autocast": f"{_TE}quantization.py",
        "transformer_engine.pytorch:is_fp8_available": f"{_TE}quantization.py",
        "transformer_engine.pytorch:is_fp8_block_scaling_available": f"{_TE}quantization.py",
        "transformer_engine.pytorch.fp8:FP8GlobalStateManager.is_fp8_enabled": f"{_TE}quantization.py",
        "transformer_engine.pytorch.fp8:FP8GlobalStateManager.reset": f"{_TE}quantization.py",
        "transformer_engine.common.recipe:DelayedScaling": _RECIPE,
        "transformer_engine.common.recipe:Float8CurrentScaling": _RECIPE,
        "transformer_engine.common.recipe:Float8BlockScaling": _RECIPE,
    },
    "flash_attn": {"flash_attn:flash_attn_varlen_func": "flash_attn/flash_attn_interface.py"},
    "torch": {
        "torch.nn.attention.varlen:varlen_attn": "torch/nn/attention/varlen.py",
        "torch.nn.attention.flex_attention:flex_attention": "torch/nn/attention/flex_attention.py",
        "torch.nn.attention.flex_attention:BlockMask.from_kv_blocks": "torch/nn/attention/flex_attention.py",
    },
}


def signatures(files: dict[str, str], package: str) -> dict[str, list[str]]:
    """Return each wanted function's parameters: ``name``, ``name=`` with a default, ``*`` before keywords alone.

    Raises:
        LookupError: a name is gone, or its public module no longer has it.
    """
    found = {}
    for public, file in WANTED[package].items():
        module, _, name = public.partition(":")
        if file not in files:
            raise LookupError(f"{public}: there is no {file}")
        offered = files.get(f"{module.replace('.', '/')}/__init__.py") or files[f"{module.replace('.', '/')}.py"]
        if name.split(".")[0] not in _names(ast.parse(offered)):
            raise LookupError(f"{public}: {module} does not have it")
        found[public] = _parameters(ast.parse(files[file]), name)
    return found


def _names(tree: ast.Module) -> set[str]:
    """Return the names that a module defines or imports."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
    return found


def _parameters(tree: ast.Module, name: str) -> list[str]:
    scope: ast.Module | ast.ClassDef | ast.FunctionDef = tree
    for part in name.split("."):
        inner = [each for each in scope.body if isinstance(each, ast.ClassDef | ast.FunctionDef) and each.name == part]
        if not inner:
            raise LookupError(f"{name}: not defined")
        scope = inner[-1]  # overloads come before the definition
    if isinstance(scope, ast.ClassDef):
        init = [each for each in scope.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
        if not init:  # a dataclass
            fields = [each for each in scope.body if isinstance(each, ast.AnnAssign)]
            return [
                f"{each.target.id}{'=' if each.value else ''}" for each in fields if isinstance(each.target, ast.Name)
            ]
        scope = init[0]
    assert isinstance(scope, ast.FunctionDef)
    return [each for each in _listed(scope.args) if each not in ("self", "cls")]


def _listed(given: ast.arguments) -> Iterator[str]:
    plain = [*given.posonlyargs, *given.args]
    first_default = len(plain) - len(given.defaults)
    yield from (f"{each.arg}{'=' if number >= first_default else ''}" for number, each in enumerate(plain))
    if given.vararg or given.kwonlyargs:
        yield f"*{given.vararg.arg if given.vararg else ''}"
    for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
        yield f"{each.arg}{'' if default is None else '='}"
    if given.kwarg:
        yield f"**{given.kwarg.arg}"


def files_of(source: Path, package: str) -> dict[str, str]:
    """Return the text of a wheel's, an archive's or a folder's Python files of ``package``, by their paths in it."""
    if source.is_dir():
        paths = sorted((source / package / "nn/attention" if package == "torch" else source / package).rglob("*.py"))
        return {str(path.relative_to(source)): path.read_text() for path in paths}
    if source.suffix == ".whl":
        with zipfile.ZipFile(source) as wheel:
            names = [name for name in wheel.namelist() if name.endswith(".py")]
            return {name: wheel.read(name).decode() for name in names}
    with tarfile.open(source) as archive:
        members = [each for each in archive.getmembers() if each.name.endswith(".py") and each.isfile()]
        texts = {each.name.partition("/")[2]: archive.extractfile(each) for each in members}
        return {name: text.read().decode() for name, text in texts.items() if text and name.startswith(package)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="wheel, source archive, or site-packages")
    parser.add_argument("--name", help="by default the file name's")
    parser.add_argument("--version", help="by default the file name's")
    given = parser.parse_args()
    name = given.name or given.source.name.split("-")[0]
    version = given.version or given.source.name.split("-")[1].removesuffix(".tar.gz")
    found = {"package": name, "version": version, "functions": signatures(files_of(given.source, name), name)}
    path = HERE / f"signatures/{name}-{version}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    print(f"wrote {path}")


if __name__ == "__main__":
    main()
