"""What ``precision.layers`` and ``precision.fp8`` come to, and that neither falls back silently.

Transformer Engine's layers themselves need a GPU: tests/gpu.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest
import torch

from megatron_mmbert.config.model import ModelConfig, linear_shapes
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.kernels import fp8
from megatron_mmbert.kernels.fp8 import Gain
from megatron_mmbert.model import te_layers
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.te_layers import resolve_precision
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.utils.errors import UserError

MODEL = ModelConfig()


@pytest.fixture
def ready(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> Callable[[list[Gain]], None]:
    """A machine that can, whose probe finds what is given."""

    def ready(gains: list[Gain]) -> None:
        monkeypatch.setattr(fp8, "fp8_unsupported_reason", lambda scaling: None)
        monkeypatch.setattr(fp8, "te_unsupported_reason", lambda: None)
        monkeypatch.setattr(fp8, "probe", lambda model, tokens, scaling, tensor: gains)

    return ready


@pytest.mark.parametrize(
    "asked", [{"layers": "te"}, {"fp8": "current"}, {"fp8": "block", "fp8_linear_layers": ["fc1"]}]
)
def test_what_cannot_run_here_is_refused_with_the_remedy(asked: dict[str, object]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"precision\.(fp8|layers) \w+: .*set precision\.(fp8 to none|layers to torch)"):
        resolve_precision(PrecisionConfig.model_validate({"dtype": "bf16", **asked}), MODEL, 4096)


def test_without_a_wish_the_linears_are_torchs() -> None:
    precision, words = resolve_precision(PrecisionConfig(dtype="bf16"), MODEL, 4096)
    config = encoder_config(MODEL, 1e4, 1e4, precision=precision)
    assert (words, config.layers, config.fp8) == ("torch", "torch", None)


def test_the_probe_decides_linear_by_linear(ready: Callable[[list[Gain]], None]) -> None:
    ready([Gain("qkv", 3.0, 2.0), Gain("proj", 1.0, 2.0), Gain("fc1", 3.0, 2.0), Gain("fc2", 1.0, 1.0)])
    precision, words = resolve_precision(PrecisionConfig(dtype="bf16", fp8="block"), MODEL, 4096)
    assert precision.fp8_linear_layers == ["qkv", "fc1"]
    assert words.startswith("te, FP8 (block) in qkv, fc1; ") and "proj 0.50" in words
    config = encoder_config(MODEL, 1e4, 1e4, precision=precision)
    assert (config.fp8, config.fp8_recipe, config.fp8_linear_layers) == ("e4m3", "blockwise", ("qkv", "fc1"))


def test_where_nothing_gains_nothing_is_in_fp8(ready: Callable[[list[Gain]], None]) -> None:
    ready([Gain(name, 1.0, 2.0) for name in linear_shapes(MODEL)])
    precision, words = resolve_precision(PrecisionConfig(dtype="bf16", fp8="current"), MODEL, 4096)
    config = encoder_config(MODEL, 1e4, 1e4, precision=precision)
    assert "in no linear" in words and (config.layers, config.fp8) == ("te", None)


def test_a_list_is_taken_without_a_probe(ready: Callable[[list[Gain]], None], monkeypatch: pytest.MonkeyPatch) -> None:
    ready([])
    monkeypatch.delattr(fp8, "probe")
    precision, words = resolve_precision(
        PrecisionConfig(dtype="bf16", fp8="delayed", fp8_linear_layers=["fc2"]), MODEL, 4096
    )
    assert words == "te, FP8 (delayed) in fc2"
    config = encoder_config(MODEL, 1e4, 1e4, precision=precision)
    assert (config.fp8, config.fp8_recipe, config.fp8_amax_history_len) == ("hybrid", "delayed", 1024)


def test_a_linear_that_fails_in_fp8_ends_the_run_in_one_sentence(
    ready: Callable[[list[Gain]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> list[Gain]:
        raise AssertionError("FP8 execution requires 16\nmore")

    ready([])
    monkeypatch.setattr(fp8, "probe", fail)
    with pytest.raises(UserError, match=r"fails in FP8 \(FP8 execution requires 16\); set precision\.fp8 to none"):
        te_layers.resolve_precision(PrecisionConfig(dtype="bf16", fp8="current"), MODEL, 4096)


def test_an_open_probe_builds_no_model() -> None:
    with pytest.raises(ValueError, match="left open"):
        encoder_config(MODEL, 1e4, 1e4, precision=PrecisionConfig(dtype="bf16", fp8="current"))


def test_scoring_needs_none_of_it() -> None:
    scoring = PrecisionConfig(dtype="bf16", fp8="block", layers="te").for_scoring
    config = encoder_config(MODEL, 1e4, 1e4, precision=scoring)
    assert (config.layers, config.fp8, config.params_dtype) == ("torch", None, torch.bfloat16)


@pytest.mark.parametrize(("in_fp8", "training", "held"), [(True, True, 0), (True, False, 1), (False, True, 1)])
def test_fp8_is_fp8_disabled_but_in_the_chosen_linears_in_training(
    in_fp8: bool, training: bool, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    holds: list[int] = []

    @contextlib.contextmanager
    def fp8_disabled() -> Iterator[None]:
        holds.append(1)
        yield
        holds.append(-1)

    class Linear(te_layers._Switched, torch.nn.Linear):
        pass

    monkeypatch.setattr(fp8, "fp8_disabled", fp8_disabled)
    linear = Linear(2, 2, in_fp8=in_fp8).train(training)
    linear(torch.ones(1, 2))
    assert holds == [1, -1] * held
