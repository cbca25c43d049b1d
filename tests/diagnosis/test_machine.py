"""What the doctor says, here and of a machine that lacks things."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest
import torch

from megatron_mmbert.attention import ENGINES, Request
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.diagnosis import machine
from megatron_mmbert.kernels import fp8
from megatron_mmbert.kernels.fp8 import Gain


def test_a_table_marks_the_chosen_engine_and_quotes_refusals() -> None:
    lines = machine.engine_table(Request("cpu", torch.float32, 16, 64, backward=True), 2, 128, 256).splitlines()
    assert len(lines) == 2 + len(ENGINES)
    (chosen,) = [line for line in lines if line.startswith("*")]
    assert "cpu" in chosen
    assert chosen.rstrip().endswith("correct")
    assert any("flex" in line and "has no backward on a CPU" in line for line in lines)
    assert any("varlen" in line and "runs on CUDA devices only" in line for line in lines)


def test_a_wrong_engine_is_shown_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: Callable[..., torch.Tensor] = lambda q, k, v, layout, window: v  # noqa: E731
    engine = ENGINES["torch"]
    monkeypatch.setitem(ENGINES, "torch", type(engine)("torch", wrong, engine.unsupported_reason))
    text = machine.engine_table(Request("cpu", torch.float32, 16, 64, backward=False), 2, 128, 256)
    (line,) = [line for line in text.splitlines() if " torch " in line]
    assert "wrong by" in line


def test_where_no_engine_works_the_table_still_says_why() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    text = machine.engine_table(Request("cuda", torch.bfloat16, 64, None, backward=True), 2, 128, 256)
    assert "*" not in text
    assert "fails here: " in text


def test_what_is_missing_comes_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_version", lambda name: None if name == "flash-attn" else "1.0")
    monkeypatch.setattr(machine.shutil, "which", lambda name: None)
    missing = dict(machine.missing_packages())
    assert missing["flash-attn"].startswith("pip install flash-attn")
    assert [command for name, command in missing.items() if "compiler" in name] == ["apt-get install g++"]


def test_machine_and_fp8_on_a_machine_without_a_gpu() -> None:
    lines = machine.machine_lines("cpu")
    assert f"torch {torch.__version__.split('+')[0]}" in lines[0]
    assert lines[-1] == "gpu: none that PyTorch can use"
    lines = machine.fp8_lines(ModelConfig(), 2048)
    assert [line.split(":")[0] for line in lines] == ["delayed", "current", "block"]
    assert all("cannot run here (Transformer Engine" in line for line in lines)


def test_gains_are_shown_linear_by_linear_and_a_failure_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def probe(model: ModelConfig, tokens: int, scaling: str) -> list[Gain]:
        if scaling == "block":
            raise AssertionError("no such kernel\nmore")
        return [Gain("qkv", 2.0, 1.0), Gain("proj", 1.0, 2.0)]

    monkeypatch.setattr(fp8, "fp8_unsupported_reason", lambda scaling: None)
    monkeypatch.setattr(fp8, "probe", probe)
    lines = machine.fp8_lines(ModelConfig(), 2048)
    assert lines[0].startswith("delayed: qkv 2.00 (") and "proj 0.50" in lines[0]
    assert lines[2] == "block: cannot run here (fails: no such kernel)"


def test_one_process_says_how_to_measure_a_sum_over_ranks() -> None:
    assert "torchrun" in str(machine.exchange_line())


def test_two_ranks_measure_it_and_one_of_them_speaks() -> None:
    code = "from megatron_mmbert.diagnosis import machine; print('said', machine.exchange_line())"
    shared = {**os.environ, "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", code],
            env={**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    first, second = (rank.communicate(timeout=120)[0] for rank in ranks)
    assert "said sum over 2 ranks (gloo): " in first and first.rstrip().endswith("GB/s of bus")
    assert "said None" in second


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
