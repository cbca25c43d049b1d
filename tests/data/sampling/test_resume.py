"""Chains of phases: what one phase has given, the next do not give again before the dataset's epoch is over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import IDS, MemorySource, data_phase, lognormal_lengths

from megatron_mmbert.config.values import LinearRamp
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.data.sampling import resume as module
from megatron_mmbert.data.sampling.mixture import Mixture, MixtureTotals
from megatron_mmbert.data.sampling.resume import TrainedPhase, blocks_begun, nominal_blocks, resume_points_after
from megatron_mmbert.data.sampling.settings import DataPhase, ResumePoint
from megatron_mmbert.utils.errors import UserError

LANGUAGES = ("aaa", "bbb", "ccc", "ddd")
SOURCE = MemorySource(
    {
        ("web", "aaa"): lognormal_lengths(700, 60, seed=1),
        ("web", "bbb"): lognormal_lengths(90, 150, seed=2),
        ("web", "ccc"): [40, 0, 700, 3],
        ("web", "ddd"): [1],
        ("books", "aaa"): lognormal_lengths(9, 4000, seed=3),
    }
)


def phase(**more: Any) -> DataPhase:
    small = {"tokens": 40_000, "max_length": 64, "pack_tokens": 512, "block_tokens": 4096, "min_stripe_tokens": 4000}
    return data_phase(**{"name": "p", **small, **more})


class Reader:
    """Counts how often every id of every document has been given."""

    def __init__(self) -> None:
        self.times = {
            tuple(name): [np.zeros(n, dtype=int) for n in SOURCE.document_lengths(*name)] for name in SOURCE.datasets
        }

    def read(self, mixture: Mixture, index: int) -> None:
        block = mixture.block(index)
        assert (block.lengths <= mixture.phase.max_length).all() and (block.stop > block.start).all()
        assert len(set(block.sample_key.tolist())) == len(block.sample_key)
        columns = (block.dataset, block.document, block.start, block.stop)
        for dataset, document, start, stop in zip(*(c.tolist() for c in columns), strict=True):
            self.times[mixture.names[dataset]][document][start:stop] += 1

    def unevenness(self) -> int:
        """Return the most by which, in any dataset, one id has been given more often than another."""
        whole = [np.concatenate(each) for each in self.times.values()]
        return max(int(each.max() - each.min()) for each in whole)


def run_chain(phases: Sequence[DataPhase], blocks: Sequence[int]) -> int:
    """The largest ``unevenness`` at any block of the chain."""
    reader, trained, worst = Reader(), list[TrainedPhase](), 0
    for each, count in zip(phases, blocks, strict=True):
        mixture = Mixture(SOURCE, replace(each, resume_points=resume_points_after(SOURCE, trained)))
        for index in range(count):
            reader.read(mixture, index)
            worst = max(worst, reader.unevenness())
        trained.append(TrainedPhase(each, count, mixture.fingerprint()))
    return worst


growing = st.lists(st.sampled_from([16, 40, 64, 200, 512]), min_size=2, max_size=5).map(sorted)
one_phase = st.fixed_dictionaries(
    {
        "temperature": st.floats(0.1, 1.0) | st.just({"from": 0.9, "to": 0.2}),
        "languages": st.none() | st.sets(st.sampled_from(LANGUAGES), min_size=1).map(tuple),
        "sources": st.none() | st.just({"web": 1.0}),
        "tokens": st.integers(5000, 60_000),
        "seed": st.sampled_from([0, 0, 0, 1]),
        "max_epochs": st.none() | st.just(50.0),
    }
)


def _allowed(settings: DataPhase) -> bool:
    """Return whether its cap leaves enough text for its tokens."""
    try:
        MixtureTotals(SOURCE, settings)
    except UserError:
        return False
    return True


@given(growing, st.data())
@settings(max_examples=40, deadline=None)
def test_no_text_again_before_its_epoch_is_over(lengths: list[int], data: st.DataObject) -> None:
    """Phases of any length of samples that does not fall, any languages, temperatures, sources, seeds and caps, and
    stopped at any block: at every block, all ids of a dataset have been given equally often but for one time."""
    phases, blocks = [], []
    for length in lengths:
        drawn = phase(**data.draw(one_phase), max_length=length)
        if drawn.sources and drawn.languages == ("aaa",):
            drawn = replace(drawn, languages=("aaa", "bbb"))
        phases.append(drawn if _allowed(drawn) else replace(drawn, max_epochs=None))
        blocks.append(data.draw(st.integers(0, 2 * nominal_blocks(drawn))))
    assert run_chain(phases, blocks) <= 1


@given(st.permutations([64, 200, 16, 40]), st.lists(st.integers(0, 12), min_size=4, max_size=4))
@settings(max_examples=25, deadline=None)
def test_nor_where_samples_become_shorter(lengths: list[int], blocks: list[int]) -> None:
    """A phase of shorter samples cuts the carry-over of a stripe once more. If yet another begins before it is through,
    what is left of one example a dataset is passed over, so ids may lag by one more epoch, but none comes early."""
    phases = [phase(max_length=length, name=f"p{i}") for i, length in enumerate(lengths)]
    assert run_chain(phases, blocks) <= len(lengths) - 1
    assert run_chain(phases[:2], blocks[:2]) <= 1


def test_variants_start_from_one_point_and_the_counts_say_so() -> None:
    """Three decays of other lengths, languages and temperatures after the same two phases, each once around."""
    first, second = phase(max_length=64, tokens=30_000), phase(max_length=200, tokens=20_000, temperature=0.5)
    for decay in (phase(max_length=200), phase(max_length=512, temperature=0.3), phase(languages=("aaa", "ddd"))):
        assert run_chain([first, second, decay], [8, 5, 20]) <= 1


def test_without_history_text_repeats() -> None:
    """The control: phases that each begin at the start give some text twice and some not at all."""
    reader = Reader()
    for length in (64, 200):
        mixture = Mixture(SOURCE, phase(max_length=length, languages=("aaa",)))
        for index in range(4):
            reader.read(mixture, index)
    times = np.concatenate(reader.times["books", "aaa"] + reader.times["web", "aaa"])
    assert times.max() - times.min() > 1


@pytest.mark.parametrize("break_it", ["stripe", "example", "max_length"])
def test_a_wrong_resume_point_is_noticed(break_it: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another control: the tests above see it when a point is off by one stripe, or one example, or in another cut."""

    def wrong(point: ResumePoint) -> ResumePoint:
        if break_it == "stripe":
            return point._replace(stripe=max(0, point.stripe - 1))
        if break_it == "example":
            return point._replace(example=max(0, point.example - 1))
        return point._replace(max_length=point.max_length + 10)

    right = module.EpochPosition.resume_points_at
    monkeypatch.setattr(
        module.EpochPosition, "resume_points_at", lambda self, n: {k: wrong(p) for k, p in right(self, n).items()}
    )
    assert run_chain([phase(max_length=64), phase(max_length=200), phase(max_length=200)], [9, 3, 8]) > 1


def test_resuming_with_the_same_samples_is_one_long_phase() -> None:
    whole = Mixture(SOURCE, phase())
    points = resume_points_after(SOURCE, [TrainedPhase(phase(), 7)])
    later = Mixture(SOURCE, phase(resume_points=points))
    resumed: set[tuple[int, ...]] = set()
    unbroken: set[tuple[int, ...]] = set()
    for index in range(7):
        for block, seen in ((later.block(index), resumed), (whole.block(7 + index), unbroken)):
            seen |= set(zip(block.dataset.tolist(), block.document.tolist(), block.start.tolist(), strict=True))
    assert len(resumed ^ unbroken) <= 2 * len(whole.names)  # offsets: one sample of a dataset at either end


def test_weights_hold_while_the_carry_over_is_read() -> None:
    """Short samples of the phase before count with their own mean length."""
    source = MemorySource({("w", "x"): [5000] * 300, ("w", "y"): lognormal_lengths(20_000, 40, 0.5)})
    first = phase(max_length=32, tokens=400_000, min_stripe_tokens=1 << 22, block_tokens=40_000)
    points = resume_points_after(source, [TrainedPhase(first, 9)])
    later = Mixture(
        source, replace(first, max_length=512, temperature=LinearRamp.constant(0.0), tokens=10**6, resume_points=points)
    )
    carried = later.position.start.carried_samples
    assert (carried > 0).all()
    tokens = np.stack(
        [np.bincount(b.dataset, weights=b.lengths, minlength=2) for b in map(later.block, range(60))]
    ).cumsum(axis=0)  # fmt: skip
    half, whole = later.samples_before(30), later.samples_before(60)
    assert whole[0] < carried[0] and half[1] < carried[1] < whole[1]
    np.testing.assert_allclose(tokens[9:, 0] / tokens[9:, 1], 1.0, rtol=0.02)
    np.testing.assert_allclose(later.position.tokens_in(whole), tokens[-1], rtol=0.02)


def test_data_that_changed_is_noticed() -> None:
    trained = TrainedPhase(phase(), 5, Mixture(SOURCE, phase()).fingerprint())
    assert len(resume_points_after(SOURCE, [trained])) == 5
    said: list[str] = []
    more = MemorySource(
        {**{tuple(name): SOURCE.document_lengths(*name) for name in SOURCE.datasets}, ("web", "eee"): [500]}
    )
    assert resume_points_after(more, [trained], said.append) == {}
    assert "'p'" in said[0] and "may repeat" in said[0]
    named = phase(languages=LANGUAGES)  # a phase that names its languages is not touched by new ones
    assert resume_points_after(more, [TrainedPhase(named, 5, Mixture(SOURCE, named).fingerprint())]) != {}
    assert resume_points_after(more, [replace(trained, phase=phase(languages=("zzz",)))], said.append) == {}
    assert "zzz" in said[1]


def test_the_loader_says_where_it_stands() -> None:
    loader = PackLoader(SOURCE, phase(), IDS)
    assert blocks_begun(loader.state_dict()) == 0
    loader.next_packs(1)
    assert blocks_begun(loader.state_dict()) == 1
    loader.next_packs(len(loader.plan(0).packs) - 1)
    assert blocks_begun(loader.state_dict()) == 1
    assert nominal_blocks(phase()) == 10


def test_another_resume_point_is_another_order() -> None:
    points = resume_points_after(SOURCE, [TrainedPhase(phase(), 2)])
    assert Mixture(SOURCE, phase(resume_points=points)).fingerprint() != Mixture(SOURCE, phase()).fingerprint()


def test_data_that_cannot_be_read_is_not_taken_for_other_data() -> None:
    """One rank's failing disk would begin a new epoch there, and there alone."""

    class Failing(MemorySource):
        def document_lengths(self, source: str, language: str) -> Any:
            raise UserError("shard-00000.idx: input/output error")

    said: list[str] = []
    with pytest.raises(UserError, match="input/output error"):
        resume_points_after(Failing({("web", "aaa"): [40]}), [TrainedPhase(phase(), 1)], said.append)
    assert not said
    assert resume_points_after(SOURCE, [TrainedPhase(phase(languages=("zzz",)), 1)], said.append) == {}
    assert "the data has no language 'zzz'" in said[0]
