"""StableAdamW against a scalar float64 loop written from the formulas of its docstring."""

from __future__ import annotations

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from megatron_mmbert.optim import stable_adamw
from megatron_mmbert.optim.groups import parameter_groups, set_hyperparameters
from megatron_mmbert.optim.stable_adamw import StableAdamW, debiased_beta

SHAPES = [(7, 5), (3, 4, 2), (11,), (1,), (6, 6)]
BETA1, BETA2, EPS, DECAY, PEAK = 0.9, 0.95, 1e-8, 8e-3, 2e-3


def spiky_gradient(shape: tuple[int, ...], step: int, generator: torch.Generator) -> Tensor:
    """A normal gradient, 30 times larger every seventh step, so that r rises far above 1 there."""
    return torch.randn(shape, generator=generator, dtype=torch.float64) * (30.0 if step % 7 == 6 else 1.0)


def scalar_step(p: list[float], g: list[float], m: list[float], v: list[float], t: int, lr: float, wd: float) -> float:
    """One update of one tensor, element by element, in place; returns r."""
    b1 = BETA1 * (1 - BETA1 ** (t - 1)) / (1 - BETA1**t)
    b2 = BETA2 * (1 - BETA2 ** (t - 1)) / (1 - BETA2**t)
    total = 0.0
    for i in range(len(p)):
        m[i] = b1 * m[i] + (1 - b1) * g[i]
        v[i] = b2 * v[i] + (1 - b2) * g[i] ** 2
        total += g[i] ** 2 / max(v[i], EPS**2)
    r = math.sqrt(total / len(p))
    lr_p = lr / max(1.0, r)
    for i in range(len(p)):
        p[i] *= 1 - wd * lr_p / PEAK
        p[i] -= lr_p * m[i] / (math.sqrt(v[i]) + EPS)
    return r


def make_parameters(dtype: torch.dtype) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype)) for s in SHAPES]


def make_optimizer(params: list[nn.Parameter], **options: Any) -> StableAdamW:
    groups = [
        {"params": [p for p in params if p.ndim > 1], "weight_decay": DECAY},
        {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return StableAdamW(groups, lr=PEAK, max_lr=PEAK, betas=(BETA1, BETA2), eps=EPS, **options)


def run(optimizer: StableAdamW, params: list[nn.Parameter], steps: range, scale: float = 1.0) -> None:
    """Steps with a learning rate that changes, gradients a function of the step."""
    for step in steps:
        generator = torch.Generator().manual_seed(5000 + step)
        for param in params:
            param.grad = (spiky_gradient(tuple(param.shape), step, generator) * scale).to(param.dtype)
        set_hyperparameters(optimizer, lr=PEAK * (1 + step % 5) / 5)
        optimizer.step()


@pytest.mark.parametrize("scale", [1.0, 1e-6, 1e-9])  # the small ones bring both uses of eps into play
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 2e-5)])
def test_fifty_steps_equal_the_scalar_loop(dtype: torch.dtype, tolerance: float, scale: float) -> None:
    params = make_parameters(dtype)
    optimizer = make_optimizer(params)
    reference = [p.detach().double().flatten().tolist() for p in params]
    firsts = [[0.0] * len(p) for p in reference]
    seconds = [[0.0] * len(p) for p in reference]
    clipped = 0
    for step in range(50):
        run(optimizer, params, range(step, step + 1), scale)
        lr = PEAK * (1 + step % 5) / 5
        for index, param in enumerate(params):
            assert param.grad is not None
            gradient = param.grad.double().flatten().tolist()
            wd = DECAY if param.ndim > 1 else 0.0
            r = scalar_step(reference[index], gradient, firsts[index], seconds[index], step + 1, lr, wd)
            clipped += r > 2
    assert clipped > 20 or scale < 1e-8, "the spikes must trigger the clipping, or this test proves little"
    for index, param in enumerate(params):
        assert param.dtype == dtype and optimizer.state[param]["exp_avg"].dtype == dtype
        got = param.detach().double().flatten().tolist()
        assert max(abs(a - b) for a, b in zip(got, reference[index], strict=True)) <= tolerance


def test_buckets_do_not_change_a_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, split = make_parameters(torch.float32), make_parameters(torch.float32)
    run(make_optimizer(whole), whole, range(10))
    monkeypatch.setitem(stable_adamw.SCRATCH_ELEMENTS, "cpu", 36)
    assert len(list(stable_adamw._buckets([p.data for p in split]))) == 3
    run(make_optimizer(split), split, range(10))
    assert all(torch.equal(a, b) for a, b in zip(whole, split, strict=True))


def test_a_large_tensor_is_updated_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    whole, cut = make_parameters(torch.float32), make_parameters(torch.float32)
    of_whole, of_cut = make_optimizer(whole), make_optimizer(cut)
    run(of_whole, whole, range(10))
    monkeypatch.setitem(stable_adamw.SCRATCH_ELEMENTS, "cpu", 10)
    for bucket in stable_adamw._buckets([p.data for p in cut]):
        assert sum(view.numel() for view in bucket.of([p.data for p in cut[bucket.params]])) <= 10
    run(of_cut, cut, range(10))
    for a, b in zip(whole, cut, strict=True):
        for moment in ("exp_avg", "exp_avg_sq"):
            assert torch.equal(of_whole.state[a][moment], of_cut.state[b][moment])
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)  # r is summed up in another order


def test_first_step_is_the_sign_of_the_gradient() -> None:
    """At t = 1 the debiased betas are 0, so m/sqrt(v) = sign(g) and r = 1."""
    assert debiased_beta(0.95, 1) == 0.0
    param = nn.Parameter(torch.zeros(4, dtype=torch.float64))
    param.grad = torch.tensor([3.0, -0.5, 1e-3, -100.0], dtype=torch.float64)
    StableAdamW([param], lr=0.1).step()
    torch.testing.assert_close(param.data, -0.1 * torch.sign(param.grad), rtol=1e-4, atol=0)


def test_decay_depends_on_the_relative_rate_only() -> None:
    """Zero gradient: p shrinks by wd · lr/peak, whatever the peak; a spared group does not move."""
    for peak in (1e-3, 1.0):
        decayed, spared = nn.Parameter(torch.ones(2, 2).double()), nn.Parameter(torch.ones(2).double())
        groups = parameter_groups([("a.weight", decayed), ("norm.weight", spared)], weight_decay=0.01)
        optimizer = StableAdamW(groups, lr=peak)
        set_hyperparameters(optimizer, lr=peak / 4)
        for param in (decayed, spared):
            param.grad = torch.zeros_like(param)
        optimizer.step()
        torch.testing.assert_close(
            decayed.data, torch.full((2, 2), 1 - 0.01 / 4, dtype=torch.float64), rtol=1e-14, atol=0
        )
        assert torch.equal(spared.data, torch.ones(2).double())


def test_state_dict_round_trip_is_bit_identical() -> None:
    params = make_parameters(torch.float32)
    optimizer = make_optimizer(params)
    run(optimizer, params, range(9))
    buffer = io.BytesIO()
    torch.save(optimizer.state_dict(), buffer)
    buffer.seek(0)
    restored_params = copy.deepcopy(params)
    restored = make_optimizer(restored_params)
    restored.load_state_dict(torch.load(buffer, weights_only=True))
    assert [g["step"] for g in restored.param_groups] == [9, 9]
    run(optimizer, params, range(9, 20))
    run(restored, restored_params, range(9, 20))
    for a, b in zip(params, restored_params, strict=True):
        assert torch.equal(a, b)
        assert all(torch.equal(optimizer.state[a][k], restored.state[b][k]) for k in ("exp_avg", "exp_avg_sq"))


def sum_all(squares_P: Tensor, params: Any) -> tuple[Tensor, Tensor]:
    """All tensors of the optimizer are shards of one logical tensor."""
    count = torch.tensor(float(sum(p.numel() for p in params)), dtype=torch.float64)
    return squares_P.sum().expand_as(squares_P), count.expand_as(squares_P)


@pytest.mark.parametrize("with_hook", [True, False])
def test_shards_equal_the_whole_only_with_the_reducer(with_hook: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = nn.Parameter(torch.ones(8, 3, dtype=torch.float64))
    shards = [nn.Parameter(half.clone()) for half in whole.data.chunk(2)]
    sharded = StableAdamW(shards, lr=1e-2, weight_decay=1e-3, rms_reducer=sum_all if with_hook else None)
    single = StableAdamW([whole], lr=1e-2, weight_decay=1e-3)
    for step in range(20):
        gradient = spiky_gradient((8, 3), step, generator)
        gradient[:4] *= 1.0 if step % 7 else 20.0  # the halves differ in r
        whole.grad = gradient
        for shard, piece in zip(shards, gradient.chunk(2), strict=True):
            shard.grad = piece.clone()
        sharded.step()
        single.step()
    difference = (torch.cat([s.data for s in shards]) - whole.data).abs().max().item()
    assert difference < 1e-14 if with_hook else difference > 1e-4


def test_reducer_is_called_once_a_step_even_without_gradients() -> None:
    calls: list[int] = []

    def reducer(squares_P: Tensor, params: Any) -> tuple[Tensor, Tensor]:
        calls.append(len(params))
        return squares_P, torch.ones_like(squares_P)

    params = make_parameters(torch.float32)
    optimizer = make_optimizer(params, rms_reducer=reducer)
    optimizer.step()
    params[0].grad = torch.ones_like(params[0])
    params[2].grad = torch.ones_like(params[2])
    optimizer.step()
    assert calls == [0, 2]
    assert not optimizer.state[params[1]], "a parameter without gradient gets no state"


def test_half_precision_parameter_is_refused() -> None:
    param = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    param.grad = torch.ones_like(param)
    with pytest.raises(ValueError, match=r"torch\.bfloat16.*float32 master"):
        StableAdamW([param], lr=1e-3).step()


@pytest.mark.parametrize(
    ("options", "field"),
    [({"lr": -1.0}, "lr"), ({"lr": 1.0, "eps": 0.0}, "eps"), ({"lr": 1.0, "betas": (1.0, 0.9)}, "betas"),
     ({"lr": 1.0, "weight_decay": 1.5}, "weight_decay"), ({"lr": 0.0, "weight_decay": 0.1}, "max_lr")],
)  # fmt: skip
def test_bad_options_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=f"StableAdamW {field}="):
        StableAdamW([nn.Parameter(torch.ones(1))], **options)
