"""Every attention engine against a loop in Python, at the window's edges, and for leaks between samples.

An engine that this machine cannot run (a GPU library's) is skipped with its own refusal; the portable ones never are.
FlexAttention, which compiles, has a file of its own.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from megatron_mmbert.attention import ENGINES, Request, SequenceLayout, attend
from megatron_mmbert.attention.engines.eager import visible
from megatron_mmbert.attention.interface import with_empty_sequences
from megatron_mmbert.model.rope import cos_sin

PORTABLE = ("cpu", "torch", "eager")
WINDOW = 64
LENGTH_SETS = {
    "one token": [1],
    "single tokens": [1, 1, 1],
    "edges": [63, 64, 65, 66, 127, 128, 129, 130],
    "no multiple of a block": [200, 1, 77],
    "exactly two blocks": [100, 28],
    "one long": [300],
}


def sequence_layout(lengths: Sequence[int]) -> SequenceLayout:
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    return SequenceLayout(bounds, max(lengths))


def random_qkv(tokens: int, heads: int, width: int, dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(tokens, heads, width, generator=generator, dtype=torch.float64).to(dtype) for _ in range(3)]


def by_hand(q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], window: int | None) -> Tensor:
    """Query by query in float64, from the words of the contract alone."""
    q, k, v = q.double(), k.double(), v.double()
    rows, start = [], 0
    for length in lengths:
        for place in range(length):
            first = 0 if window is None else max(0, place - window)
            last = length - 1 if window is None else min(length - 1, place + window)
            seen = slice(start + first, start + last + 1)
            scores = torch.einsum("hd,khd->hk", q[start + place], k[seen]) / math.sqrt(q.shape[-1])
            rows.append(torch.einsum("hk,khd->hd", scores.softmax(-1), v[seen]))
        start += length
    return torch.stack(rows)


def outputs_and_gradients(
    engine: str, qkv: Sequence[Tensor], layout: SequenceLayout, window: int | None
) -> list[Tensor]:
    """out, dq, dk, dv for a fixed random direction of the output."""
    inputs = [x.clone().requires_grad_() for x in qkv]
    out = ENGINES[engine](*inputs, layout, window)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs, direction)]


@pytest.fixture(params=sorted(ENGINES))
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    reason = ENGINES[name].unsupported_reason(Request("cpu", torch.float64, 8, WINDOW, backward=True))
    assert not (name in PORTABLE and reason), f"{name} must run on every CPU: {reason}"
    if reason:
        pytest.skip(f"engine {name!r}: {reason}")
    return name


@pytest.mark.parametrize("window", [None, 0, 1, WINDOW, 100])
@pytest.mark.parametrize("lengths", LENGTH_SETS.values(), ids=LENGTH_SETS)
def test_equals_the_loop(engine: str, lengths: list[int], window: int | None) -> None:
    qkv = random_qkv(sum(lengths), 2, 8, torch.float64)
    out = ENGINES[engine](*qkv, sequence_layout(lengths), window)
    assert out.shape == qkv[0].shape
    torch.testing.assert_close(out, by_hand(*qkv, lengths, window), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("window", [None, WINDOW])
def test_narrow_dtypes(engine: str, window: int | None, dtype: torch.dtype, tolerance: float) -> None:
    lengths = [130, 7, 64]
    qkv = random_qkv(sum(lengths), 2, 16, dtype)
    out = ENGINES[engine](*qkv, sequence_layout(lengths), window)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), by_hand(*qkv, lengths, window), rtol=0, atol=tolerance)


@pytest.mark.parametrize("window", [None, 3, WINDOW])
def test_gradients_equal_the_references(engine: str, window: int | None) -> None:
    """Against autograd through the loop in Python."""
    lengths = [66, 1, 20]
    qkv = random_qkv(sum(lengths), 1, 4, torch.float64)
    found = outputs_and_gradients(engine, qkv, sequence_layout(lengths), window)
    inputs = [x.clone().requires_grad_() for x in qkv]
    out = by_hand(*inputs, lengths, window)
    direction = torch.randn(out.shape, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    expected = torch.autograd.grad(out, inputs, direction)
    for ours, theirs in zip(found[1:], expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("lengths", "window"), [([1, 4, 2], None), ([1, 5, 66], 2)])
def test_gradcheck(engine: str, lengths: list[int], window: int | None) -> None:
    inputs = [x.requires_grad_() for x in random_qkv(sum(lengths), 1, 2, torch.float64)]
    layout = sequence_layout(lengths)
    assert torch.autograd.gradcheck(lambda q, k, v: ENGINES[engine](q, k, v, layout, window), inputs, fast_mode=True)


@pytest.mark.parametrize("length", range(63, 131))
def test_the_windows_edge_is_exact(engine: str, length: int) -> None:
    """A change at distance 64 is seen, one at distance 65 moves no bit; the sample starts inside a block."""
    before = 37
    layout = sequence_layout([before, length, 5])
    q, k, v = random_qkv(before + length + 5, 1, 4, torch.float32)
    out = ENGINES[engine](q, k, v, layout, WINDOW)
    for place in {0, length // 2, length - 1}:
        touched_k, touched_v = k.clone(), v.clone()
        touched_k[before + place] += 1.0
        touched_v[before + place] += 1.0
        moved = (ENGINES[engine](q, touched_k, touched_v, layout, WINDOW) != out).any(-1).any(-1)
        expected = torch.zeros_like(moved)
        expected[before + max(0, place - WINDOW) : before + min(length, place + WINDOW + 1)] = True
        assert torch.equal(moved, expected), f"a change at {place} is seen from the wrong places"


@pytest.mark.parametrize("window", [None, WINDOW], ids=["global", "local"])
@pytest.mark.parametrize("changed", range(4))
def test_no_bit_of_a_sample_reaches_another(engine: str, changed: int, window: int | None) -> None:
    lengths = [70, 130, 1, 90]
    layout = sequence_layout(lengths)
    qkv = random_qkv(sum(lengths), 2, 8, torch.float32)
    other = [x.clone() for x in qkv]
    bounds = layout.cu_seqlens.tolist()
    own = slice(bounds[changed], bounds[changed + 1])
    for x, y in zip(other, random_qkv(sum(lengths), 2, 8, torch.float32, seed=1), strict=True):
        x[own] = 30 * y[own]
    before = outputs_and_gradients(engine, qkv, layout, window)
    after = outputs_and_gradients(engine, other, sequence_layout(lengths), window)
    assert not torch.equal(before[0][own], after[0][own]), "the change itself was not seen"
    for name, x, y in zip(("out", "dq", "dk", "dv"), before, after, strict=True):
        apart = torch.ones(len(x), dtype=torch.bool)
        apart[own] = False
        assert torch.equal(x[apart], y[apart]), f"{name} of another sample changed"


@pytest.mark.parametrize("window", [None, WINDOW])
def test_the_order_of_samples_does_not_matter(engine: str, window: int | None) -> None:
    lengths = [30, 129, 1, 64, 200]
    qkv = random_qkv(sum(lengths), 2, 8, torch.float64)
    order = [3, 0, 4, 2, 1]
    shuffled = [torch.cat([x.split(lengths)[number] for number in order]) for x in qkv]
    new_lengths = [lengths[number] for number in order]
    out = ENGINES[engine](*qkv, sequence_layout(lengths), window).split(lengths)
    moved = ENGINES[engine](*shuffled, sequence_layout(new_lengths), window)
    torch.testing.assert_close(moved, torch.cat([out[number] for number in order]), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("window", [None, WINDOW, 2])
def test_a_pack_of_a_thousand_samples(engine: str, window: int | None) -> None:
    lengths = [1 + number * 7 % 5 for number in range(1000)]
    qkv = random_qkv(sum(lengths), 1, 4, torch.float64)
    out = ENGINES[engine](*qkv, sequence_layout(lengths), window)
    torch.testing.assert_close(out, by_hand(*qkv, lengths, window), rtol=1e-10, atol=1e-12)


def test_a_bound_above_the_longest_sample_changes_nothing(engine: str) -> None:
    lengths = [100, 40]
    qkv = random_qkv(140, 1, 4, torch.float64)
    exact = sequence_layout(lengths)
    for window in (None, WINDOW):
        out = ENGINES[engine](*qkv, SequenceLayout(exact.cu_seqlens, 8192), window)
        torch.testing.assert_close(out, ENGINES[engine](*qkv, exact, window), rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("window", [None, WINDOW])
def test_empty_sequences_change_no_bit(engine: str, window: int | None) -> None:
    """On GPUs each pack's bounds end with some, so that few shapes of bounds occur."""
    lengths = [100, 40, 1]
    qkv, exact = random_qkv(141, 1, 8, torch.float64), sequence_layout(lengths)
    layout = SequenceLayout(with_empty_sequences(exact.cu_seqlens, 141), 8192 if window is None else 100)
    assert len(layout.cu_seqlens) == 65 and layout.cu_seqlens.dtype == torch.int32
    for ours, theirs in zip(
        outputs_and_gradients(engine, qkv, layout, window),
        outputs_and_gradients(engine, qkv, exact, window),
        strict=True,
    ):
        assert torch.equal(ours, theirs)


class _Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation gives."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, tuple | list) else (result,):
            if isinstance(each, Tensor):
                self.elements = max(self.elements, each.numel())
        return result


def largest_tensor(engine: str, lengths: list[int]) -> int:
    with _Largest() as largest:
        outputs_and_gradients(engine, random_qkv(sum(lengths), 1, 4, torch.float32), sequence_layout(lengths), WINDOW)
    return largest.elements


@pytest.mark.parametrize("engine", [name for name in sorted(ENGINES) if name != "eager"], indirect=True)
def test_local_layers_cost_in_proportion_to_the_tokens(engine: str) -> None:
    """By the largest tensor, forward and backward: one long sample, and as many tokens in short ones."""
    assert largest_tensor(engine, [4096]) <= 4.1 * largest_tensor(engine, [1024])
    assert largest_tensor(engine, [128] * 32) <= 1.01 * largest_tensor(engine, [4096])
    assert largest_tensor("eager", [4096]) >= 4096**2, "the reference is quadratic, so this measure can tell"


def test_the_portable_engines_mask_is_a_band() -> None:
    layout = sequence_layout([1000, 24, 1])
    ENGINES["torch"](*random_qkv(1025, 1, 4, torch.float32), layout, WINDOW)
    (mask,) = [value for key, value in layout.cache.items() if key[0] == "band"]
    assert mask.shape == (17, 1, 64, 3 * 64)
    ENGINES["torch"](*random_qkv(1025, 1, 4, torch.float32), layout, WINDOW)
    assert next(value for key, value in layout.cache.items() if key[0] == "band") is mask, "one mask for all layers"


def test_the_cpu_engine_keeps_one_mask_for_all_heads_and_layers() -> None:
    layout = sequence_layout([1000, 24, 1])
    ENGINES["cpu"](*random_qkv(1025, 3, 4, torch.float32), layout, WINDOW)
    (mask,) = [value for key, value in layout.cache.items() if key[0] == "local blocks"]
    assert mask.shape == (18, 64, 3 * 64)
    ENGINES["cpu"](*random_qkv(1025, 2, 4, torch.float32), layout, WINDOW)
    assert next(value for key, value in layout.cache.items() if key[0] == "local blocks") is mask


def test_a_sample_of_8192_tokens(engine: str) -> None:
    """Rows in the middle and at the ends against the loop; the reference engine itself is quadratic, so not asked."""
    if engine == "eager":
        pytest.skip("engine 'eager': 8,192 x 8,192 scores in float64 are 0.5 GB a head")
    lengths = [1, 8192]
    q, k, v = random_qkv(8193, 1, 8, torch.float64)
    for window in (None, WINDOW):
        out = ENGINES[engine](q, k, v, sequence_layout(lengths), window)
        for place in (0, 1, 64, 65, 4000, 8191):
            first = 0 if window is None else max(0, place - window)
            seen = slice(1 + first, 8193 if window is None else min(8193, place + window + 2))
            weights = (k[seen, 0] @ q[1 + place, 0] / math.sqrt(8)).softmax(0)
            torch.testing.assert_close(out[1 + place, 0], weights @ v[seen, 0], rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rows", [None, [0, 0, 65, 3, 67, 136, 70], [66], []])
@pytest.mark.parametrize("window", [None, 3, WINDOW])
def test_the_fused_form_rotates_and_differentiates(window: int | None, rows: list[int] | None) -> None:
    """Against rotation by the model's own formula, then attention, through autograd in float64; of all queries, of some
    of them, and of none in a sample."""
    lengths = [66, 1, 70]
    tokens, layout = sum(lengths), sequence_layout(lengths)
    qkv_3TH8 = torch.stack(random_qkv(tokens, 2, 8, torch.float64))
    fused_TH38 = qkv_3TH8.permute(1, 2, 0, 3).contiguous().requires_grad_()
    cos, sin = cos_sin(torch.arange(tokens), 10_000.0, 8)
    rows_K = None if rows is None else torch.tensor(rows, dtype=torch.int64)
    direction = random_qkv(tokens if rows is None else len(rows), 2, 8, torch.float64, seed=5)[0]
    attend_fused = ENGINES["cpu"].fused
    assert attend_fused is not None
    out = attend_fused(fused_TH38, (cos, sin), layout, window, rows_K)
    (found,) = torch.autograd.grad(out, fused_TH38, direction)
    parts = [x.clone().requires_grad_() for x in qkv_3TH8]
    turned = [torch.cat((-x[..., 4:], x[..., :4]), -1) * sin + x * cos for x in parts[:2]]
    expected = by_hand(*turned, parts[2], lengths, window)
    expected = expected if rows_K is None else expected[rows_K]
    gradients = torch.autograd.grad(expected, parts, direction)
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(found, torch.stack(gradients).permute(1, 2, 0, 3), rtol=1e-8, atol=1e-10)


def test_visible_is_the_contract() -> None:
    seen = visible(sequence_layout([2, 4]), 1)
    expected = ["11....", "11....", "..11..", "..111.", "...111", "....11"]
    assert ["".join("1" if each else "." for each in row) for row in seen.tolist()] == expected
    assert visible(sequence_layout([2, 4]), None).sum() == 2 * 2 + 4 * 4


def test_attend_chooses_the_engine_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    qkv = random_qkv(6, 1, 4, torch.float64)
    bounds = torch.tensor([0, 2, 6], dtype=torch.int32)
    torch.testing.assert_close(attend(*qkv, bounds, 4, 1, "eager"), by_hand(*qkv, [2, 4], 1))
    monkeypatch.setitem(ENGINES, "zero", lambda q, k, v, layout, window: torch.zeros_like(q) + layout.max_seqlen)
    assert (attend(*qkv, bounds, 4, 1, "zero") == 4).all()
    with pytest.raises(KeyError):
        attend(*qkv, bounds, 4, 1, "none")
