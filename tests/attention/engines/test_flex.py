"""FlexAttention against the reference, forward only, compiled once for all packs (slow: some 20 s of compiling)."""

from __future__ import annotations

import itertools

import pytest
import torch

from megatron_mmbert.attention import ENGINES, Request, SequenceLayout

pytestmark = pytest.mark.slow
LENGTH_SETS = ([63, 130, 1, 250, 68], [300, 5, 77], [1] * 200, [1030])


def sequence_layout(lengths: list[int]) -> SequenceLayout:
    return SequenceLayout(torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32), max(lengths))


@torch.no_grad()
def test_equals_the_reference_and_does_not_leak() -> None:
    reason = ENGINES["flex"].unsupported_reason(Request("cpu", torch.float32, 64, 64, backward=False))
    if reason:
        pytest.skip(f"engine 'flex': {reason}")
    for lengths, window in itertools.product(LENGTH_SETS, (None, 64, 3)):
        generator = torch.Generator().manual_seed(0)
        q, k, v = torch.randn(3, sum(lengths), 2, 64, generator=generator)
        out = ENGINES["flex"](q, k, v, sequence_layout(lengths), window)
        expected = ENGINES["eager"](q, k, v, sequence_layout(lengths), window)
        torch.testing.assert_close(out, expected, rtol=0, atol=1e-5, msg=f"{lengths}, window {window}")
        k[: lengths[0]] += 30.0
        v[: lengths[0]] -= 30.0
        changed = ENGINES["flex"](q, k, v, sequence_layout(lengths), window)
        assert not torch.equal(changed[: lengths[0]], out[: lengths[0]])
        assert torch.equal(changed[lengths[0] :], out[lengths[0] :]), "a bit of another sample changed"
