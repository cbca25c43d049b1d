"""Every attention engine on the GPU in bf16 against the reference in fp64, for leaks, edges and odd packs.

The reference itself is proved in tests/attention. Gradients of FlashAttention are sums in no fixed order, so that they
are compared within a tolerance, outputs bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from megatron_mmbert.attention import ENGINES, Request, SequenceLayout
from megatron_mmbert.attention.selection import sequence_layout

WINDOW, HEADS, WIDTH = 64, 2, 64
LENGTH_SETS = {
    "edges": [63, 64, 65, 66, 127, 128, 129, 130],
    "one token": [1],
    "no multiple of a block": [200, 1, 77, 515],
}


@pytest.fixture(params=[name for name in ENGINES if name != "cpu"])
def engine(request: pytest.FixtureRequest, device: str) -> str:
    name: str = request.param
    reason = ENGINES[name].unsupported_reason(Request(device, torch.bfloat16, WIDTH, WINDOW, backward=True))
    if reason:
        pytest.skip(f"engine {name!r}: {reason}")
    return name


def random_qkv(tokens: int, device: str, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(3, tokens, HEADS, WIDTH, generator=generator).bfloat16().to(device))


def outputs_and_gradients(
    engine: str, qkv: Sequence[Tensor], layout: SequenceLayout, window: int | None
) -> list[Tensor]:
    """out, dq, dk, dv for a fixed direction of the output."""
    inputs = [x.clone().requires_grad_() for x in qkv]
    out = ENGINES[engine](*inputs, layout, window)
    direction = random_qkv(len(out), str(out.device), seed=9)[0].to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, direction)]


def assert_as_the_reference(engine: str, lengths: Sequence[int], window: int | None, device: str) -> None:
    qkv = random_qkv(sum(lengths), device)
    found = outputs_and_gradients(engine, qkv, sequence_layout(lengths, device), window)
    exact = outputs_and_gradients("eager", [x.double() for x in qkv], sequence_layout(lengths, device), window)
    for name, ours, theirs in zip(("out", "dq", "dk", "dv"), found, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), theirs, rtol=2e-2, atol=4e-2, msg=lambda m, n=name: f"{n}: {m}")
        assert (ours.double() - theirs).norm() <= 1e-2 * theirs.norm() + 1e-6, f"{name} is off as a whole"


@pytest.mark.parametrize("window", [None, WINDOW, 3])
@pytest.mark.parametrize("lengths", LENGTH_SETS.values(), ids=LENGTH_SETS)
def test_output_and_gradients(engine: str, lengths: list[int], window: int | None, device: str) -> None:
    assert_as_the_reference(engine, lengths, window, device)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_a_pack_of_a_thousand_samples(engine: str, window: int | None, device: str) -> None:
    assert_as_the_reference(engine, [1 + number * 7 % 5 for number in range(1000)], window, device)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_a_sample_of_8192_tokens(engine: str, window: int | None, device: str) -> None:
    if engine == "eager":
        pytest.skip("the reference is quadratic")
    lengths = [1, 8192]
    q, k, v = random_qkv(8193, device)
    out = ENGINES[engine](q, k, v, sequence_layout(lengths, device), window)
    for place in (0, 1, 64, 65, 4000, 8191):
        first = 0 if window is None else max(0, place - window)
        seen = slice(1 + first, 8193 if window is None else min(8193, place + window + 2))
        scores = torch.einsum("hd,khd->hk", q[1 + place].double(), k[seen].double()) * WIDTH**-0.5
        expected = torch.einsum("hk,khd->hd", scores.softmax(-1), v[seen].double())
        torch.testing.assert_close(out[1 + place].double(), expected, rtol=2e-2, atol=1e-2)


@pytest.mark.parametrize("length", [63, 64, 65, 128, 129, 130])
def test_the_windows_edge_is_exact(engine: str, length: int, device: str) -> None:
    """A change at distance 64 is seen, one at distance 65 moves no bit; the sample starts inside a block."""
    before = 37
    layout = sequence_layout([before, length, 5], device)
    q, k, v = random_qkv(before + length + 5, device)
    out = ENGINES[engine](q, k, v, layout, WINDOW)
    for place in {0, length // 2, length - 1}:
        touched_k, touched_v = k.clone(), v.clone()
        touched_k[before + place] += 8.0
        touched_v[before + place] += 100.0
        moved = (ENGINES[engine](q, touched_k, touched_v, layout, WINDOW) != out).any(-1).any(-1)
        expected = torch.zeros_like(moved)
        expected[before + max(0, place - WINDOW) : before + min(length, place + WINDOW + 1)] = True
        assert not (moved & ~expected).any(), f"a change at {place} is seen from too far"
        edges = {before + max(0, place - WINDOW), before + min(length, place + WINDOW + 1) - 1}
        # A weight may be too small for one head of bf16; that of neither head at both ends is no chance.
        assert any(bool(moved[edge]) for edge in edges), f"a change at {place} is not seen at the window's ends"


@pytest.mark.parametrize("window", [None, WINDOW], ids=["global", "local"])
@pytest.mark.parametrize("changed", range(4))
def test_no_bit_of_a_sample_reaches_another(engine: str, changed: int, window: int | None, device: str) -> None:
    lengths = [70, 130, 1, 90]
    layout = sequence_layout(lengths, device)
    qkv = random_qkv(sum(lengths), device)
    other = [x.clone() for x in qkv]
    own = slice(*layout.bounds[changed])
    for x, y in zip(other, random_qkv(sum(lengths), device, seed=1), strict=True):
        x[own] = 30 * y[own]
    before = outputs_and_gradients(engine, qkv, layout, window)
    after = outputs_and_gradients(engine, other, sequence_layout(lengths, device), window)
    apart = torch.ones(sum(lengths), dtype=torch.bool, device=device)
    apart[own] = False
    assert not torch.equal(before[0][own], after[0][own]), "the change itself was not seen"
    assert torch.equal(before[0][apart], after[0][apart]), "another sample's output changed"
    for name, x, y in zip(("dq", "dk", "dv"), before[1:], after[1:], strict=True):
        torch.testing.assert_close(x[apart], y[apart], rtol=1e-2, atol=1e-2, msg=lambda m, n=name: f"{n}: {m}")


def test_a_bound_above_the_longest_sample_changes_nothing(engine: str, device: str) -> None:
    qkv, exact = random_qkv(140, device), sequence_layout([100, 40], device)
    for window in (None, WINDOW):
        out = ENGINES[engine](*qkv, SequenceLayout(exact.cu_seqlens, 8192), window)
        torch.testing.assert_close(out, ENGINES[engine](*qkv, exact, window), rtol=1e-2, atol=1e-2)
