"""Shares of random recipes over 2^30 tokens, from the counts of samples alone: no text is drawn."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import MemorySource, data_phase

from megatron_mmbert.data.sampling.mixture import Mixture
from megatron_mmbert.data.sampling.settings import DataPhase
from megatron_mmbert.utils.errors import UserError

WINDOW = 2**30
L, T = 1024, 49_152
PER_BLOCK = 256 * T
taus = st.floats(0.1, 1.0)


def corpus(sizes: list[int], seed: int) -> MemorySource:
    """Languages of ``sizes`` documents in two sources; documents of one length each, 1 to 5,000 tokens."""
    length = np.random.default_rng(seed).integers(1, 5000, len(sizes))
    return MemorySource(
        {("web" if i % 4 else "wiki", f"l{i:02}"): [int(length[i])] * size for i, size in enumerate(sizes)}
    )


def phase(tokens: int = 2**40, **more: Any) -> DataPhase:
    return data_phase("p", tokens, L, T, **more)


def reference_shares(mixture: Mixture, tau: float, weights: dict[str, float], tempered: set[str]) -> np.ndarray:
    """p_i = weight of the source x n_i^tau / sum over the source, as the recipe says it."""
    powers = [
        float(n) ** tau if name[0] in tempered else float(n)
        for name, n in zip(mixture.names, mixture.tokens.tolist(), strict=True)
    ]
    of_source = {source: sum(p for name, p in zip(mixture.names, powers, strict=True) if name[0] == source)
                 for source in weights}  # fmt: skip
    whole = sum(weights.values())
    return np.array(
        [weights[name[0]] / whole * p / of_source[name[0]] for name, p in zip(mixture.names, powers, strict=True)]
    )


def drawn(mixture: Mixture, first: int, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (samples, tokens with special tokens) of each dataset in a window of blocks."""
    samples = mixture.samples_before(first + blocks) - mixture.samples_before(first)
    mean = [Fraction(int(t) + 2 * int(e), int(e)) for t, e in zip(mixture.tokens, mixture.examples, strict=True)]
    return samples, np.array([float(count * each) for count, each in zip(samples.tolist(), mean, strict=True)])


recipes = st.lists(st.integers(1, 3000), min_size=5, max_size=40)


@given(recipes, taus, st.floats(0.05, 0.95), st.booleans(), st.integers(0, 80_000), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_shares_within_half_a_percent_over_any_2_to_30_tokens(
    sizes: list[int], tau: float, wiki: float, temper_wiki: bool, first: int, seed: int
) -> None:
    weights = {"wiki": wiki, "web": 1 - wiki}
    tempered = {"web", "wiki"} if temper_wiki else {"web"}
    chosen = phase(temperature=tau, sources=weights, tempered=frozenset(tempered), seed=seed)
    mixture = Mixture(corpus(sizes, seed), chosen)
    assert mixture.block_tokens == PER_BLOCK
    samples, tokens = drawn(mixture, first, -(-WINDOW // PER_BLOCK))
    shares = reference_shares(mixture, tau, weights, tempered)
    often = samples >= 1000
    assert often.any()
    np.testing.assert_allclose((tokens / tokens.sum())[often], shares[often], rtol=5e-3)
    np.testing.assert_allclose(mixture.weights_at(first * PER_BLOCK), shares, rtol=1e-12)


@given(recipes, taus, taus, st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_annealing_follows_its_line(sizes: list[int], start: float, end: float, seed: int) -> None:
    """Over each sixteenth of the phase (two stages of temperature) shares are those of the line's mean there, as far
    as the curvature of n^tau allows: compared with the integral over the line."""
    chosen = phase(tokens=2**36, temperature={"from": start, "to": end}, seed=seed)
    mixture = Mixture(corpus(sizes, seed), chosen)
    blocks = 2**36 // PER_BLOCK
    source_tokens = {s: float(sum(t for n, t in zip(mixture.names, mixture.tokens, strict=True) if n[0] == s))
                     for s in ("web", "wiki")}  # fmt: skip
    for part in range(16):
        low, high = part * blocks // 16, (part + 1) * blocks // 16
        samples, tokens = drawn(mixture, low, high - low)
        line = [start + (end - start) * (low + (high - low) * (k + 0.5) / 64) / blocks for k in range(64)]
        wanted = np.mean(
            [reference_shares(mixture, tau, source_tokens, {"web", "wiki"}) for tau in line],
            axis=0,
        )
        often = samples >= 1000
        np.testing.assert_allclose((tokens / tokens.sum())[often], wanted[often], rtol=5e-3)


@given(recipes, taus, st.floats(0.5, 6.0), st.floats(0.1, 0.9), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_caps_hold_and_the_others_keep_their_proportions(
    sizes: list[int], tau: float, cap: float, fraction: float, seed: int
) -> None:
    source = corpus(sizes, seed)
    tokens = sum(int(source.document_lengths(*name).sum()) for name in source.datasets)
    chosen = phase(
        tokens=max(1, int(fraction * cap * tokens)), temperature=tau, max_epochs=cap, block_tokens=T, seed=seed
    )
    try:
        mixture = Mixture(source, chosen)
    except UserError as error:  # datasets of one example may round down to no sample at all
        assert "max_epochs" in str(error)
        return
    blocks = chosen.tokens // T
    max_samples = np.floor(cap * mixture.examples)
    assert (mixture.samples_before(blocks) <= max_samples).all()
    plans = mixture.expected()
    capped = np.array([plan.capped for plan in plans])
    assert (mixture.samples_before(9 * blocks + 9)[capped] <= max_samples[capped]).all()
    shares = np.array([plan.share for plan in plans])
    assert shares.sum() == pytest.approx(1.0)
    powers = mixture.tokens.astype(float) ** tau
    for name in ("web", "wiki"):
        free = np.array([source == name for source, _ in mixture.names]) & ~capped
        if free.any():
            ratio = shares[free] / powers[free]
            np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
