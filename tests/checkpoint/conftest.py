"""Saved checkpoints of a tiny run, and the tools run through their own ``__main__``."""

from __future__ import annotations

import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT
from support.run_to_save import Run

from megatron_mmbert import parallel


@pytest.fixture(autouse=True, scope="module")
def world(runtime: parallel.Runtime) -> None:
    """All tests here need the parallel world of one process."""


@pytest.fixture(scope="module")
def saved(world: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with optimizer state after two steps; not to be changed."""
    run = Run(3)
    run.train(2)
    folder = tmp_path_factory.mktemp("saved")
    clocks = {"phase_tokens": 512, "total_tokens": 512, "loader": {"block": 4}, "finished": True}
    return run.save(folder / "step-00000002", **clocks)


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """``run_tool("phase_transition", ...)``: exit status, stdout, stderr of the tool, run in this process for speed."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        tool = str(ROOT / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(tool, run_name="__main__")
        written = capfd.readouterr()
        parallel.enable_cpu_mode()
        parallel.start()
        assert "Traceback" not in written.err
        return int(ended.value.code or 0), written.out, written.err

    return run
