"""StableAdamW inside the optimizers of Megatron-Core (one process, gloo)."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

from megatron_mmbert import parallel
from megatron_mmbert.optim.groups import parameter_groups, set_hyperparameters
from megatron_mmbert.optim.optimizer import Optimizer, OptimizerSettings, build_optimizer
from megatron_mmbert.optim.stable_adamw import StableAdamW


def tiny_model() -> nn.Module:
    """A matrix, a bias, a norm, and a tied matrix."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Embedding(10, 6), nn.LayerNorm(6, bias=False), nn.Linear(6, 10))
    model[2].weight = model[0].weight
    return model


@pytest.fixture(autouse=True, scope="module")
def megatron(runtime: parallel.Runtime) -> None:
    """Megatron's process groups in one gloo process."""


def wrapped(dtype: torch.dtype, distributed: bool) -> Any:
    """The tiny model in Megatron's DDP, which puts gradients in ``main_grad``."""
    from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig
    from megatron.core.transformer import TransformerConfig

    config = TransformerConfig(num_layers=1, hidden_size=6, num_attention_heads=1, use_cpu_initialization=True)
    options = DistributedDataParallelConfig(use_distributed_optimizer=distributed, grad_reduce_in_fp32=True)
    return DistributedDataParallel(config, options, tiny_model().to(dtype))


def train(chunk: Any, optimizer: Optimizer, steps: range) -> None:
    for step in steps:
        chunk.zero_grad_buffer()
        optimizer.zero_grad()
        set_hyperparameters(optimizer, lr=1e-2 / (1 + step))
        ids = torch.arange(8).roll(step) % 10
        nn.functional.cross_entropy(chunk(ids).float(), ids.flip(0), reduction="sum").backward()
        chunk.finish_grad_sync()
        assert optimizer.step()


def plain(steps: int, start_dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """The same training in fp32 without Megatron, from weights rounded to ``start_dtype``."""
    model = tiny_model().to(start_dtype).float()
    optimizer = StableAdamW(parameter_groups(model.named_parameters(), 8e-3), lr=1e-2)
    for step in range(steps):
        optimizer.zero_grad()
        set_hyperparameters(optimizer, lr=1e-2 / (1 + step))
        ids = torch.arange(8).roll(step) % 10
        nn.functional.cross_entropy(model(ids), ids.flip(0), reduction="sum").backward()
        optimizer.step()
    return dict(model.named_parameters())


@pytest.mark.parametrize(
    ("precision", "distributed", "tolerance"),
    [("fp32", False, 1e-6), ("fp32", True, 1e-6), ("bf16", False, 1e-2), ("bf16", True, 1e-2)],
)
def test_megatron_wrappers_train_as_plain_stable_adamw(precision: Any, distributed: bool, tolerance: float) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    chunk = wrapped(dtype, distributed)
    settings = OptimizerSettings(1e-2, weight_decay=8e-3, precision=precision, distributed=distributed)
    optimizer = build_optimizer([chunk], settings)
    assert isinstance(optimizer.stable_adamw, StableAdamW)
    start = {name: p.detach().float().clone() for name, p in chunk.module.named_parameters()}
    train(chunk, optimizer, range(12))
    for name, expected in plain(12, dtype).items():
        got = dict(chunk.module.named_parameters())[name].detach().float()
        assert (got - expected).abs().max().item() <= tolerance
        assert (got - start[name]).abs().max().item() > 2 * tolerance, f"{name} must have moved"
    assert all(g["step"] == 12 for g in optimizer.param_groups)
    assert all(s["exp_avg"].dtype == torch.float32 for s in optimizer.stable_adamw.state.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_megatron_state_dict_round_trip(precision: Any) -> None:
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    first, second = wrapped(dtype, False), wrapped(dtype, False)
    settings = OptimizerSettings(1e-2, weight_decay=8e-3, precision=precision)
    a = build_optimizer([first], settings)
    train(first, a, range(5))
    second.module.load_state_dict(first.module.state_dict())
    b = build_optimizer([second], settings)
    b.megatron.load_state_dict(copy.deepcopy(a.megatron.state_dict()))
    train(first, a, range(5, 9))
    train(second, b, range(5, 9))
    assert all(torch.equal(x, y) for x, y in zip(first.parameters(), second.parameters(), strict=True))
