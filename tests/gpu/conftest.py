"""These tests need a CUDA device. MMBERT_GPU_TESTS_ON_CPU=1 runs their code on a CPU, which proves nothing of a GPU
but that it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.kernels import fp8
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.te_layers import resolve_precision
from megatron_mmbert.parallel import Runtime

HERE = Path(__file__).parent
ON_CPU = os.environ.get("MMBERT_GPU_TESTS_ON_CPU") == "1"
sys.path.insert(0, str(HERE.parents[1] / "benchmarks"))  # their synthetic packs

MODEL = ModelConfig(
    num_layers=4,
    hidden_size=128,
    ffn_hidden_size=256,
    num_attention_heads=2,
    vocab_size=2048,
    max_length=1024,
    attention_output_dropout=0.0,
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available() or ON_CPU:
        return
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(scope="session")
def device() -> str:
    return "cuda" if torch.cuda.is_available() else "cpu"


@pytest.fixture(autouse=True, scope="session")
def compiled_functions_stay_compiled() -> None:
    """Beyond eight variants of a function PyTorch would run it uncompiled, without a word."""
    torch._dynamo.config.fail_on_recompile_limit_hit = True


@pytest.fixture(autouse=True)
def fp8_layers_are_forgotten() -> Iterator[None]:
    """A test's layers are gone with it."""
    yield
    fp8.forget()


@pytest.fixture(scope="session")
def model() -> ModelConfig:
    """The shape of the encoders here: small, with sides that all kinds of FP8 take."""
    return MODEL


@pytest.fixture
def build(runtime: Runtime) -> Callable[..., Encoder]:
    """``build(**precision)``: an encoder on this device, with the same weights for every precision."""

    def build(**precision: object) -> Encoder:
        wanted, _ = resolve_precision(PrecisionConfig.model_validate({"dtype": "bf16", **precision}), MODEL, 1024)
        encoder = Encoder(encoder_config(MODEL, 1e4, 1e4, precision=wanted), MODEL.vocab_size).to(runtime.device)
        initialize(encoder, 1)
        return encoder

    return build
