from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import MemorySource, data_phase, lognormal_lengths, small_source

from megatron_mmbert.data.sampling.mixture import Block, Mixture
from megatron_mmbert.data.sampling.settings import DataPhase
from megatron_mmbert.utils.errors import UserError


def phase(tokens: int = 2_000_000, **settings: Any) -> DataPhase:
    return data_phase("p", tokens, **{"max_length": 128, "pack_tokens": 1024, "block_tokens": 65_536, **settings})


def samples_of(block: Block) -> list[tuple[int, ...]]:
    return list(zip(*(c.tolist() for c in (block.dataset, block.document, block.start, block.stop)), strict=True))


def same(one: Block, other: Block) -> bool:
    return samples_of(one) == samples_of(other) and (one.sample_key == other.sample_key).all()


sizes = st.lists(st.integers(1, 60), min_size=1, max_size=25)


@given(sizes, st.floats(0.1, 1.0), st.booleans(), st.integers(0, 5))
@settings(max_examples=25, deadline=None)
def test_shares_are_exact_in_samples_and_met_in_tokens(counts: list[int], tau: float, ramp: bool, seed: int) -> None:
    """Examples nearly as long as max_length, so that the lengths themselves add no noise to the token shares."""
    rng = np.random.default_rng(seed)
    source = MemorySource({("web", f"l{i:02}"): rng.integers(3000, 9000, n) for i, n in enumerate(counts)})
    chosen = phase(temperature={"from": tau, "to": 0.3} if ramp else tau, seed=seed)
    mixture = Mixture(source, chosen)
    blocks = -(-chosen.tokens // chosen.tokens_per_block)
    samples = mixture.samples_before(blocks)
    plans = mixture.expected()
    assert sum(plan.share for plan in plans) == pytest.approx(1.0)
    tokens = np.zeros(len(counts))
    for index in range(blocks):
        block = mixture.block(index)
        tokens += np.bincount(block.dataset, weights=block.lengths, minlength=len(counts))
    # The last block passes the phase's end, at the weights of the last stage: so what is due is added up by stages.
    table = mixture.position.weights
    spans = np.diff([*table.first_block.tolist(), blocks])
    due = (spans[:, None] * table.weight).sum(axis=0) * chosen.tokens_per_block
    assert (abs(samples - due / mixture.mean_lengths) <= 1).all()
    often = samples >= 1000
    np.testing.assert_allclose(tokens[often], due[often], rtol=5e-3)


def test_token_shares_hold_where_lengths_vary() -> None:
    """Short documents in one language, long ones in another: equal shares of TOKENS, not of samples."""
    source = MemorySource({("w", "long"): [60_000] * 5, ("w", "short"): lognormal_lengths(12_000, 20, 0.6)})
    mixture = Mixture(source, phase(4_000_000, temperature=0.0))
    tokens = np.zeros(2)
    for index in range(61):
        block = mixture.block(index)
        tokens += np.bincount(block.dataset, weights=block.lengths)
    assert tokens[0] / tokens[1] == pytest.approx(1.0, rel=5e-3)


@given(sizes, st.floats(0.1, 1.0), st.integers(0, 3))
@settings(max_examples=25, deadline=None)
def test_each_example_once_per_epoch(counts: list[int], tau: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    source = MemorySource({("web", f"l{i:02}"): rng.integers(0, 1500, n) + 1 for i, n in enumerate(counts)})
    mixture = Mixture(source, phase(600_000, block_tokens=40_000, temperature=tau, seed=seed))
    seen: Counter[tuple[int, ...]] = Counter()
    keys: list[int] = []
    for index in range(15):
        block = mixture.block(index)
        seen.update(samples_of(block))
        keys += block.sample_key.tolist()
    assert len(set(keys)) == len(keys)
    used = mixture.samples_before(15)
    for dataset in range(len(mixture.names)):
        epochs, more = divmod(int(used[dataset]), int(mixture.examples[dataset]))
        times = [count for sample, count in seen.items() if sample[0] == dataset]
        assert sum(times) == used[dataset]
        assert Counter(times)[epochs + 1] == more
        assert set(times) <= {epochs, epochs + 1}
        if epochs:
            assert len(times) == mixture.examples[dataset]


def test_blocks_are_the_same_in_any_order() -> None:
    one, other = Mixture(small_source(), phase(temperature=0.5)), Mixture(small_source(), phase(temperature=0.5))
    forward = [one.block(index) for index in range(25)]
    for index in np.random.default_rng(0).permutation(25):
        assert same(other.block(int(index)), forward[index])
    different = Mixture(small_source(), phase(temperature=0.5, seed=1))
    assert not same(different.block(0), forward[0])


def test_epochs_have_different_orders() -> None:
    """400 samples of 128 tokens in blocks of 100: blocks 0-3 are the first epoch, 4-7 the second."""
    mixture = Mixture(MemorySource({("w", "eng"): [126] * 400}), phase(block_tokens=12_800))
    blocks = [{sample[1] for sample in samples_of(mixture.block(index))} for index in range(8)]
    assert set().union(*blocks[:4]) == set().union(*blocks[4:]) == set(range(400))
    for early, late in zip(blocks[:4], blocks[4:], strict=True):
        assert len(early) == 100 and len(early & late) < 50  # 25 expected


def test_rare_languages_are_spread_over_blocks() -> None:
    """500 languages with one sample in 50 blocks each: about ten per block, not all in one."""
    source = MemorySource({("w", "big"): [100_000] * 100, **{("w", f"r{i:03}"): [126] for i in range(500)}})
    mixture = Mixture(source, phase(10**8, block_tokens=6400, pack_tokens=128))
    rate = mixture.expected()[1].samples / (10**8 / 6400)
    blocks = round(1 / rate)
    arrivals = [
        int((np.diff([mixture.samples_before(n)[1:], mixture.samples_before(n + 1)[1:]], axis=0)).sum())
        for n in range(blocks)
    ]
    mean = np.mean(arrivals)
    assert abs(sum(arrivals) - 500) <= 40
    assert max(arrivals) < mean + 6 * np.sqrt(mean) + 1


def test_far_blocks_of_a_huge_phase() -> None:
    mixture = Mixture(small_source(), phase(3 * 10**12, temperature={"from": 0.7, "to": 0.3}))
    last = 3 * 10**12 // 65_536
    assert mixture.block(last - 1).lengths.sum() == pytest.approx(65_536, rel=0.05)
    for block in (0, last // 32 - 1, last // 32, last // 2, last - 1, last + 5):
        assert (mixture.samples_before(block + 1) >= mixture.samples_before(block)).all()
    total = mixture.samples_before(last)
    planned = np.array([plan.samples for plan in mixture.expected()])
    np.testing.assert_allclose(total, planned, rtol=1e-6)


def test_temperature_and_weights_in_force() -> None:
    mixture = Mixture(small_source(), phase(4_000_000, temperature={"from": 1.0, "to": 0.0}))
    assert mixture.temperature_at(0) > 0.98 and mixture.temperature_at(4_000_000) < 0.02
    early, late = mixture.weights_at(0), mixture.weights_at(3_999_999)
    rare = mixture.names.index(("web", "smo"))
    assert early[rare] < 0.01 < late[rare]
    assert early.sum() == pytest.approx(1.0) and late.sum() == pytest.approx(1.0)


def test_epoch_caps_are_exact() -> None:
    mixture = Mixture(small_source(), phase(1_200_000, temperature=0.2, max_epochs=2.0))
    end = mixture.samples_before(19)
    capped = np.array([plan.capped for plan in mixture.expected()])
    assert capped.any() and not capped.all()
    assert (end[capped] == 2 * mixture.examples[capped]).all()
    assert (mixture.samples_before(1000)[capped] == end[capped]).all()
    middle = mixture.samples_before(9)[capped]
    assert (abs(middle - end[capped] * 9 * 65_536 / 1_200_000) <= 1).all()  # spread, not read up early
    with pytest.raises(UserError, match="max_epochs"):
        Mixture(small_source(), phase(10**9, max_epochs=2.0))


def test_choice_of_sources_and_languages() -> None:
    mixture = Mixture(small_source(), phase(languages=("eng", "deu"), sources={"web": 0.9, "books": 0.1}))
    assert mixture.names == [("books", "eng"), ("web", "deu"), ("web", "eng")]
    assert mixture.weights_at(0)[0] == pytest.approx(0.1)
    with pytest.raises(UserError, match=r"no language 'srp'.*did you mean 'srp_Cyrl'"):
        Mixture(small_source(), phase(languages=("srp",)))
    with pytest.raises(UserError, match="no source 'wab'"):
        Mixture(small_source(), phase(sources={"wab": 1.0}))
    with pytest.raises(UserError, match="no text"):
        Mixture(MemorySource({("web", "eng"): [0, 0]}), phase())


def test_order_of_datasets_in_the_store_does_not_matter() -> None:
    lengths = {("web", "a"): [500] * 30, ("web", "b"): [900] * 10}
    one = Mixture(MemorySource(lengths), phase())
    other = Mixture(MemorySource(dict(reversed(lengths.items()))), phase())
    assert one.fingerprint() == other.fingerprint()
    assert same(one.block(3), other.block(3))


def test_another_process_computes_the_same() -> None:
    """Nothing depends on the salt of this process (PYTHONHASHSEED)."""
    script = (
        "from test_mixture import *; m = Mixture(small_source(), phase(temperature=0.37));"
        "print(m.fingerprint(), hash(tuple(samples_of(m.block(7)))))"
    )
    here = Mixture(small_source(), phase(temperature=0.37))
    expected = f"{here.fingerprint()} {hash(tuple(samples_of(here.block(7))))}"
    path = [str(Path(__file__).parent), str(Path(__file__).parents[2])]
    ran = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path}; {script}"],
        env={"PYTHONHASHSEED": "12"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ran.stdout.strip() == expected
