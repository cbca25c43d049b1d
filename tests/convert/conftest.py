"""A tiny checkpoint, its tokenizer and its Hugging Face folder, and the tools run through their own ``__main__``."""

from __future__ import annotations

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import ROOT
from support.tiny_checkpoint import VOCAB, RunTool, make_checkpoint, make_tokenizer

from megatron_mmbert import parallel
from megatron_mmbert.convert.export_hf import export_checkpoint


@pytest.fixture(autouse=True, scope="module")
def world(runtime: parallel.Runtime) -> None:
    """All tests here need the parallel world of one process."""


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece tokenizer of 400 pieces with its Hugging Face twin."""
    return make_tokenizer(tmp_path_factory.mktemp("tokenizer"), VOCAB)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint(tmp_path_factory.mktemp("checkpoint") / "step-00000007")


@pytest.fixture(scope="session")
def exported(checkpoint: Path, tokenizer_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Hugging Face folder of ``checkpoint``."""
    parallel.enable_cpu_mode()
    parallel.start()
    output = tmp_path_factory.mktemp("hf") / "model"
    export_checkpoint(checkpoint, tokenizer_dir, output)
    return output


@pytest.fixture
def run_tool(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> RunTool:
    """``run_tool("convert_to_hf", ...)``: exit status, stdout, stderr of the tool, run in this process for speed."""

    def run(name: str, *arguments: object) -> tuple[int, str, str]:
        tool = str(ROOT / "tools" / f"{name}.py")
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(tool, run_name="__main__")
        written = capfd.readouterr()
        parallel.enable_cpu_mode()
        parallel.start()
        return int(ended.value.code or 0), written.out, written.err

    return run


@pytest.fixture(scope="session")
def run_process() -> Callable[..., subprocess.CompletedProcess[str]]:
    """The same in a process of its own, as a user runs it."""

    def run(name: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(ROOT / "tools" / f"{name}.py"), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)

    return run
