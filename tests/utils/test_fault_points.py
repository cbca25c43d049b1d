"""Fault points: silent unless a test installs a handler, and one handler for each."""

from __future__ import annotations

import ast

import pytest
from support import ROOT

from megatron_mmbert.utils.fault_points import Moment, fault_point, install, installed


def test_a_handler_is_called_while_it_is_installed() -> None:
    seen: list[str] = []
    fault_point(Moment.STEP_END)
    with installed(Moment.FORWARD, lambda: seen.append("forward")):
        fault_point(Moment.STEP_END)
        fault_point(Moment.FORWARD)
        with pytest.raises(ValueError, match="FORWARD: has a handler already"):
            install(Moment.FORWARD, lambda: None)
    fault_point(Moment.FORWARD)
    assert seen == ["forward"]


def test_the_product_announces_every_moment_once_and_installs_nothing() -> None:
    announced, installs = [], []
    for path in (ROOT / "megatron_mmbert").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and path.name != "fault_points.py":
                if node.func.id == "fault_point":
                    announced.append(ast.unparse(node.args[0]).removeprefix("Moment."))
                elif node.func.id in ("install", "installed"):
                    installs.append(f"{path.name}:{node.lineno}")
    assert sorted(announced) == sorted(moment.name for moment in Moment)
    assert installs == []
