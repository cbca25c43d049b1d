"""Dropout by pack and layer: the same masks however the tokens are spread."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from megatron_mmbert.model import dropout
from megatron_mmbert.model.dropout import keyed_dropout
from megatron_mmbert.model.memory_saving.masked_rows import MaskedRows
from megatron_mmbert.parallel import Runtime

X_T1D = torch.ones(512, 1, 64)


def test_rate_and_scale() -> None:
    dropped = keyed_dropout(X_T1D, 0.1, keys=[5])
    kept = dropped[dropped != 0]
    assert torch.equal(kept, torch.full_like(kept, 1 / 0.9))
    assert (dropped == 0).float().mean().item() == pytest.approx(0.1, abs=4 * (0.09 / X_T1D.numel()) ** 0.5)


def test_a_function_of_the_key() -> None:
    first = keyed_dropout(X_T1D, 0.1, keys=[5])
    torch.manual_seed(99)
    assert torch.equal(keyed_dropout(X_T1D, 0.1, keys=[5]), first), "no global random state"
    other = keyed_dropout(X_T1D, 0.1, keys=[6])
    assert 0.005 < ((other == 0) & (first == 0)).float().mean() < 0.02  # 0.01 by chance


@pytest.mark.parametrize("shards", [2, 4])
def test_ranks_take_their_rows_of_one_mask(shards: int, runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = []
    for rank in range(shards):
        monkeypatch.setattr(dropout, "current", lambda rank=rank: replace(runtime, tp_rank=rank))
        parts.append(keyed_dropout(X_T1D.chunk(shards)[rank], 0.1, [5], shards))
    assert torch.equal(torch.cat(parts), keyed_dropout(X_T1D, 0.1, [5]))


def test_some_rows_get_what_they_get_among_all() -> None:
    number_K = torch.tensor([0, 0, 7, 3])
    found = keyed_dropout(X_T1D[number_K], 0.1, [5], rows=MaskedRows(number_K, len(X_T1D), 1))
    assert torch.equal(found, keyed_dropout(X_T1D, 0.1, [5])[number_K])


def test_the_gradient_is_dropped_alike() -> None:
    x = X_T1D.clone().requires_grad_()
    dropped = keyed_dropout(x, 0.1, [5])
    dropped.sum().backward()
    assert torch.equal(x.grad, dropped.detach())


def test_each_of_several_packs_has_the_mask_that_it_has_alone() -> None:
    joined = torch.cat([X_T1D, X_T1D, X_T1D])
    alone = [keyed_dropout(X_T1D, 0.1, [key]) for key in (5, 6, 7)]
    assert torch.equal(keyed_dropout(joined, 0.1, [5, 6, 7]), torch.cat(alone))
