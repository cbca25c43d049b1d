"""GeGLU, rotation, the head and the optimizer on the GPU against the CPU's, in fp64 where there is a choice."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.kernels.geglu import geglu
from megatron_mmbert.model.dropout import keyed_dropout
from megatron_mmbert.model.memory_saving import chunked_cross_entropy as loss_module
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy
from megatron_mmbert.model.rope import cos_sin, rotate
from megatron_mmbert.optim.stable_adamw import StableAdamW
from megatron_mmbert.parallel import Runtime


def both(function: Callable[[Tensor], Tensor], x: Tensor) -> list[Tensor]:
    """Output and gradient, as fp64 on the CPU."""
    leaf = x.detach().clone().requires_grad_()
    out = function(leaf)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, out.dtype)
    return [each.detach().double().cpu() for each in (out, *torch.autograd.grad(out, leaf, direction))]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
@pytest.mark.parametrize("tokens", [1, 100, 4096])
def test_geglu(device: str, tokens: int, dtype: torch.dtype, tolerance: float) -> None:
    x = torch.randn(tokens, 1, 2 * 96, generator=torch.Generator().manual_seed(0)).to(dtype)
    for ours, exact in zip(both(geglu, x.to(device)), both(geglu, x.double()), strict=True):
        torch.testing.assert_close(ours, exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 3e-2)])
def test_rotation_of_a_slice_of_the_fused_projection(device: str, dtype: torch.dtype, tolerance: float) -> None:
    fused = torch.randn(300, 4, 3, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    tables = cos_sin(torch.arange(300), 10_000.0, 64)
    on_device = [each.to(device) for each in tables]
    found = both(lambda x: rotate(x[:, :, 1], *on_device), fused.to(device))
    exact = both(lambda x: rotate(x[:, :, 1].float(), *tables), fused.float())
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rows_per_chunk", [512, 100, 7])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_heads_loss(device: str, dtype: torch.dtype, rows_per_chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16 it errs at most 2.5 times as much as dense logits do: each chunk's part is rounded by itself."""
    rows, width, vocabulary = 300, 64, 1000
    monkeypatch.setitem(loss_module.BYTES_OF_LOGITS, device, rows_per_chunk * vocabulary * dtype.itemsize)
    draw = torch.Generator().manual_seed(0)
    sizes = ((rows, width), (vocabulary, width), (vocabulary,))
    given = [torch.randn(*size, generator=draw).mul_(0.4).to(device, dtype) for size in sizes]
    label = torch.randint(0, vocabulary, (rows,), generator=draw).to(device)
    label[::9] = IGNORED_LABEL

    def dense(x: Tensor, table: Tensor, bias: Tensor) -> Tensor:
        return F.cross_entropy(F.linear(x, table, bias), label, reduction="sum")

    exact = [each.double().requires_grad_() for each in given]
    total = dense(*exact)
    expected = torch.autograd.grad(total, exact)

    def errors(loss: Callable[..., Tensor]) -> list[float]:
        inputs = [each.clone().requires_grad_() for each in given]
        found = torch.autograd.grad(loss(*inputs), inputs)
        return [((f - e).norm() / e.norm()).item() for f, e in zip(found, expected, strict=True)]

    ours = errors(lambda *inputs: chunked_cross_entropy(*inputs, label)[0])
    theirs = errors(dense)
    limits = [2.5 * each for each in theirs] if dtype == torch.bfloat16 else [1e-4] * 3
    assert all(mine <= limit for mine, limit in zip(ours, limits, strict=True)), (ours, theirs)
    value = chunked_cross_entropy(*given, label)[0].double()
    torch.testing.assert_close(value, total.detach(), rtol=1e-2 if dtype == torch.bfloat16 else 1e-5, atol=0)


def test_dropout_is_a_function_of_its_key(runtime: Runtime, device: str) -> None:
    x = torch.ones(4096, 1, 64, device=device, dtype=torch.bfloat16)
    ours, again, other = (keyed_dropout(x, 0.1, [key]) for key in (5, 5, 6))
    assert torch.equal(ours, again) and not torch.equal(ours, other)
    kept = ours != 0
    assert 0.895 < kept.float().mean() < 0.905
    torch.testing.assert_close(ours[kept].float(), torch.full_like(ours[kept], 1 / 0.9).float(), rtol=1e-2, atol=0)
    value, grad = both(lambda x: keyed_dropout(x, 0.1, [5]), x)
    assert torch.equal(value != 0, grad != 0), "what is dropped has no gradient"


def test_twenty_updates_are_those_of_the_cpu(device: str) -> None:
    shapes = [(300, 64), (64,), (64, 64), (1000, 16)]
    models = []
    for place in ("cpu", device):
        draw = torch.Generator().manual_seed(0)
        params = [torch.randn(*shape, generator=draw).to(place).requires_grad_() for shape in shapes]
        optimizer = StableAdamW(params, 1e-2, max_lr=1e-2, weight_decay=1e-4)
        for step in range(20):
            for param in params:
                scale = 30.0 if step == 11 else 1.0  # the RMS above 1 that makes it stable
                param.grad = (torch.randn(param.shape, generator=draw) * scale).to(place)
            optimizer.step()
        models.append([param.detach().cpu() for param in params])
    for ours, theirs in zip(*reversed(models), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
