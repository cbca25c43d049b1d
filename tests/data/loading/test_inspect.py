"""Packs at a point of a phase: those shown are those that training takes, and their marks are the batch's."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from support.synthetic_source import IDS, MemorySource, data_phase, small_source

from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.data.loading.inspect import NOT_SCORED, PackView, find_block, packs_at
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.sampling.mixture import Mixture
from megatron_mmbert.data.sampling.settings import DataPhase

PHASE = data_phase(
    "p", tokens=400_000, max_length=128, pack_tokens=512, temperature=0.5, mask_ratio={"from": 0.4, "to": 0.1}, seed=3
)


def loader(phase: DataPhase = PHASE, source: MemorySource | None = None) -> PackLoader:
    return PackLoader(source or small_source(), phase, IDS)


def trained(count: int, phase: DataPhase = PHASE) -> list[tuple[int, PackedBatch]]:
    """Return (real tokens before it, batch) of the first packs, as training takes them."""
    running, packs = loader(phase), []
    for _ in range(count):
        before = running.state.tokens
        packs += [(before, batch) for batch in running.next_packs(1)]
    return packs


def check_same(view: PackView, batch: PackedBatch, source: MemorySource) -> None:
    """Check that the view holds the batch's tokens, scored positions and labels, and the source's text below them."""
    seen = np.concatenate([sample.seen for sample in view.samples])
    assert seen.tolist() == batch.tokens_T[: batch.real_tokens].tolist()
    marked = {
        sample.offset + position: int(label)
        for sample in view.samples
        for position, label in enumerate(sample.label)
        if label != NOT_SCORED
    }
    pairs = zip(batch.masked_index_K.tolist(), batch.label_K.tolist(), strict=True)
    assert marked == {index: label for index, label in pairs if label != -100}
    for sample in view.samples:
        text = source.tokens(sample.source, sample.language, sample.document, sample.start, sample.stop).tolist()
        assert sample.original.tolist() == [IDS.bos, *text, IDS.eos]


@pytest.mark.parametrize("token", [0, 511, 40_000, 75_123])
def test_the_pack_of_a_token_is_the_one_that_training_takes(token: int) -> None:
    packs = trained(160)
    index = next(n for n, (before, batch) in enumerate(packs) if before <= token < before + batch.real_tokens)
    shown = list(itertools.islice(packs_at(loader(), token), 3))
    for view, (before, batch) in zip(shown, packs[index : index + 3], strict=True):
        assert view.exact and view.first_token == before
        check_same(view, batch, small_source())
    located = shown[0].sample_at(token)
    assert located is not None
    sample = shown[0].samples[located[0]]
    assert shown[0].first_token + sample.offset + located[1] == token
    assert shown[1].sample_at(token) is None


def test_far_away_the_point_is_found_at_once_and_said_to_be_approximate(monkeypatch: pytest.MonkeyPatch) -> None:
    token = 390_000
    block, before, exact = find_block(loader().mixture, token, counted_blocks=1000)
    assert exact
    drawn: list[int] = []
    draw = Mixture.block
    monkeypatch.setattr(Mixture, "block", lambda self, index: drawn.append(index) or draw(self, index))
    near, about, counted = find_block(loader().mixture, token, counted_blocks=0)
    assert not counted and len(drawn) <= 3, "the blocks before it are not drawn"
    assert abs(near - block) <= 1
    expected = about - (near - block) * PHASE.tokens_per_block
    assert abs(expected - before) < 0.01 * before
    view = next(packs_at(loader(), token, counted_blocks=0))
    assert not view.exact and view.first_token <= token < view.first_token + view.real_tokens


def test_what_fills_up_the_scored_positions_is_no_mark() -> None:
    phase = replace(PHASE, mask_ratio=LinearRamp.constant(1.0))
    (_, batch), *_ = trained(1, phase)
    assert (batch.label_K == -100).any(), "the test needs a pack with fewer eligible positions than K"
    view = next(packs_at(loader(phase), 0))
    check_same(view, batch, small_source())
    assert view.samples[0].label[0] == NOT_SCORED, "<bos> is never scored"
    assert view.scored == int((batch.label_K != -100).sum())
