"""Which linears FP8 is worth it for, and what is said where it cannot run; the products themselves: tests/gpu."""

from __future__ import annotations

import contextlib
import sys

import pytest
import torch

from megatron_mmbert.config.model import ModelConfig, linear_shapes
from megatron_mmbert.kernels import fp8
from megatron_mmbert.kernels.fp8 import Gain


def test_only_linears_with_a_gain_are_taken() -> None:
    gains = [Gain("qkv", 2.0, 1.0), Gain("proj", 1.0, 1.25), Gain("fc1", 1.01, 1.0), Gain("fc2", 1.05, 1.0)]
    assert fp8.gaining(gains) == ["qkv", "fc2"], "proj is slower, and one percent is noise"
    assert str(gains[1]) == "proj 0.80 (1.00 ms in bf16, 1.25 in FP8)"


@pytest.mark.parametrize("tensor", [1, 2])
def test_shapes_are_those_of_a_layers_linears(tensor: int) -> None:
    shapes = linear_shapes(ModelConfig(), tensor)
    assert shapes["qkv"] == (768, 2304 // tensor) and shapes["proj"] == (768 // tensor, 768)
    assert shapes["fc1"] == (768, 2304 // tensor) and shapes["fc2"] == (1152 // tensor, 768)
    assert all(size % 16 == 0 for pair in shapes.values() for size in pair), "as FP8 products need"


def test_a_machine_without_gpu_or_library_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    monkeypatch.setattr(fp8, "te_problem", lambda: "Transformer Engine is not installed")
    assert fp8.te_unsupported_reason() == fp8.fp8_unsupported_reason("block") == "Transformer Engine is not installed"
    monkeypatch.setattr(fp8, "te_problem", lambda: None)
    assert "needs a CUDA device" in str(fp8.fp8_unsupported_reason("current"))


def test_nothing_is_fp8_disabled_where_the_library_was_never_loaded() -> None:
    if "transformer_engine.pytorch" in sys.modules:
        pytest.skip("Transformer Engine is loaded")
    assert isinstance(fp8.fp8_disabled(), contextlib.nullcontext)
