"""One package asks Megatron-Core for process groups; all others ask it."""

from __future__ import annotations

import ast

from support import ROOT


def test_only_parallel_touches_the_globals_of_megatron_core() -> None:
    sources = ROOT / "megatron_mmbert"
    found = [
        path.relative_to(sources).as_posix()
        for path in sources.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.alias | ast.Name | ast.Attribute)
        and "parallel_state" in (getattr(node, "name", ""), getattr(node, "id", ""), getattr(node, "attr", ""))
    ]
    assert found and {path.split("/")[0] for path in found} == {"parallel"}
