"""Initial weights: ModernBERT's distribution, and a pure function of (seed, name)."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import logical_name

SIGMA = 0.02
_DENSITY_AT_2 = math.exp(-2.0) / math.sqrt(2 * math.pi)
TRUNCATED_STD = math.sqrt(1 - 4 * _DENSITY_AT_2 / math.erf(math.sqrt(2)))
"""Standard deviation of a standard normal variable cut at two: 0.8796."""


def distance_from_truncated_normal(values: Tensor, sigma: float) -> float:
    """Kolmogorov-Smirnov distance between the values and a normal distribution cut at two sigma."""
    ordered = values.double().flatten().sort().values / sigma
    kept = math.erf(math.sqrt(2))
    expected = 0.5 + torch.erf(ordered / math.sqrt(2)) / (2 * kept)
    steps = torch.arange(1, len(ordered) + 1, dtype=torch.float64) / len(ordered)
    return (steps - expected).abs().max().item()


def test_the_cut_distributions_deviation() -> None:
    assert pytest.approx(0.8796, abs=1e-4) == TRUNCATED_STD


def test_statistics_of_every_tensor(build: Callable[..., Encoder]) -> None:
    encoder = build(loud=False)
    parameters = dict(encoder.named_parameters())
    assert len(parameters) == 6 + 6 * 6 - 1
    for name, parameter in parameters.items():
        if name.endswith("norm.weight"):
            assert (parameter == 1).all(), name
            continue
        if name == "output_layer.bias":
            assert (parameter == 0).all()
            continue
        into_the_stream = name.endswith(("linear_proj.weight", "linear_fc2.weight"))
        sigma = SIGMA / math.sqrt(2 * 6) if into_the_stream else SIGMA
        values, count = parameter.detach(), parameter.numel()
        assert values.abs().max() <= 2 * sigma, name
        assert values.abs().max() > 1.99 * sigma, name
        assert values.std().item() == pytest.approx(TRUNCATED_STD * sigma, rel=3 / math.sqrt(count)), name
        assert abs(values.mean().item()) < 4 * sigma / math.sqrt(count), name
        # 1.95 / sqrt(n) is passed by one sample in a thousand; the draws are fixed by the seed
        assert distance_from_truncated_normal(values, sigma) < 1.95 / math.sqrt(count), name


def test_an_uncut_normal_would_be_noticed() -> None:
    values = torch.randn(16384, generator=torch.Generator().manual_seed(0)) * SIGMA * TRUNCATED_STD
    assert distance_from_truncated_normal(values, SIGMA) > 1.95 / math.sqrt(16384)


def test_a_function_of_the_seed(build: Callable[..., Encoder]) -> None:
    first, again, other = (dict(build(loud=False, seed=seed).named_parameters()) for seed in (3, 3, 4))
    for name, parameter in first.items():
        assert torch.equal(parameter, again[name]), name
        if parameter.unique().numel() > 1:
            assert not torch.equal(parameter, other[name]), name


def test_a_function_of_the_name_not_of_what_was_drawn_before(build: Callable[..., Encoder]) -> None:
    deep, shallow = (dict(build(loud=False, num_layers=layers).named_parameters()) for layers in (6, 2))
    name = "encoder.layers.1.mlp.linear_fc1.weight"
    assert torch.equal(deep[name], shallow[name])
    assert not torch.equal(deep[name], deep["encoder.layers.2.mlp.linear_fc1.weight"])
    torch.manual_seed(99)
    assert torch.equal(dict(build(loud=False).named_parameters())[name], deep[name]), "no global random state"


def test_logical_names(build: Callable[..., Encoder]) -> None:
    config = build(loud=False).config
    assert logical_name("output_layer.weight", config) == "embedding.word_embeddings.weight"
    assert logical_name("encoder.layers.4.mlp.linear_fc1.weight", config) == "encoder.layers.4.mlp.linear_fc1.weight"
    assert logical_name("head.norm.weight", config) == "head.norm.weight"
