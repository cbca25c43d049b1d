"""What the doctor says, here and of a machine that lacks things."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from megatron_mmbert import doctor
from megatron_mmbert.attention import ENGINES, Request


def test_a_table_marks_the_chosen_engine_and_quotes_refusals() -> None:
    lines = doctor.engine_table(Request("cpu", torch.float32, 16, 64, backward=True), 2, 128, 256).splitlines()
    assert len(lines) == 2 + len(ENGINES)
    (chosen,) = [line for line in lines if line.startswith("*")]
    assert "cpu" in chosen
    assert chosen.rstrip().endswith("correct")
    assert any("flex" in line and "has no backward on a CPU" in line for line in lines)
    assert any("varlen" in line and "runs on CUDA devices only" in line for line in lines)


def test_a_wrong_engine_is_shown_as_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong: Callable[..., torch.Tensor] = lambda q, k, v, layout, window: v  # noqa: E731
    engine = ENGINES["torch"]
    monkeypatch.setitem(ENGINES, "torch", type(engine)("torch", wrong, engine.refusal))
    text = doctor.engine_table(Request("cpu", torch.float32, 16, 64, backward=False), 2, 128, 256)
    (line,) = [line for line in text.splitlines() if " torch " in line]
    assert "wrong by" in line


def test_what_is_missing_comes_with_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: None if name == "flash-attn" else "1.0")
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    missing = dict(doctor.missing_packages())
    assert missing["flash-attn"].startswith("pip install flash-attn")
    assert [command for name, command in missing.items() if "compiler" in name] == ["apt-get install g++"]


def test_machine_and_fp8_on_a_machine_without_a_gpu() -> None:
    lines = doctor.machine_lines("cpu")
    assert f"torch {torch.__version__.split('+')[0]}" in lines[0]
    assert lines[-1] == "gpu: none that PyTorch can use"
    assert "cannot run here" in doctor.fp8_verdict("cpu")
