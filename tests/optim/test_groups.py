"""Parameter groups: what weight decay spares, and what a step sets."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megatron_mmbert.optim.groups import (
    parameter_groups,
    set_hyperparameters,
    split_parameters,
)
from megatron_mmbert.optim.stable_adamw import StableAdamW


def tiny_model() -> nn.Module:
    """A matrix, a bias, a norm, and a tied matrix."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Embedding(10, 6), nn.LayerNorm(6, bias=False), nn.Linear(6, 10))
    model[2].weight = model[0].weight
    return model


def test_norms_and_biases_are_spared() -> None:
    model = tiny_model()
    frozen = nn.Parameter(torch.ones(2, 2), requires_grad=False)
    named = [*model.named_parameters(), ("frozen", frozen), ("two_dim.bias", nn.Parameter(torch.ones(2, 2)))]
    decayed, spared = split_parameters(named)
    assert [tuple(p.shape) for p in decayed] == [(10, 6)]
    assert [tuple(p.shape) for p in spared] == [(6,), (10,), (2, 2)]
    groups = parameter_groups(named, 8e-5)
    assert [g["weight_decay"] for g in groups] == [8e-5, 0.0]


def test_a_stage_with_one_kind_of_parameter_still_has_both_groups() -> None:
    groups = parameter_groups([("norm.weight", nn.Parameter(torch.ones(3)))], 8e-5)
    optimizer = StableAdamW(groups, lr=1e-3)
    assert [len(g["params"]) for g in optimizer.param_groups] == [0, 1]


def test_set_hyperparameters_keeps_spared_groups_spared() -> None:
    optimizer = StableAdamW(parameter_groups(tiny_model().named_parameters(), 8e-5), lr=8e-4)
    set_hyperparameters(optimizer, lr=1e-4, peak_lr=4e-4, weight_decay=4e-5)
    assert [(g["lr"], g["max_lr"], g["weight_decay"]) for g in optimizer.param_groups] == [
        (1e-4, 4e-4, 4e-5),
        (1e-4, 4e-4, 0.0),
    ]
    with pytest.raises(ValueError, match=r"weight_decay=-1: give"):
        set_hyperparameters(optimizer, lr=1e-4, weight_decay=-1)
