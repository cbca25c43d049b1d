from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.synthetic_source import data_phase

from megatron_mmbert.data.sampling.settings import DataPhase
from megatron_mmbert.data.sampling.weights import WeightTable, weight_table
from megatron_mmbert.utils.errors import UserError

NO_CAP = np.inf


def phase(tokens: int = 10**9, **settings: Any) -> DataPhase:
    return data_phase("p", tokens, max_length=128, pack_tokens=1024, **settings)


def weights(tokens: dict[tuple[str, str], int], chosen: DataPhase, cap: list[float] | None = None) -> WeightTable:
    counts = np.array(list(tokens.values()))
    return weight_table(list(tokens), counts, np.full(len(counts), NO_CAP) if cap is None else np.array(cap), chosen)


@given(st.lists(st.integers(1, 10**12), min_size=1, max_size=40), st.floats(0.0, 1.0))
@settings(max_examples=50, deadline=None)
def test_temperature(counts: list[int], tau: float) -> None:
    table = weights({("web", str(i)): n for i, n in enumerate(counts)}, phase(temperature=tau))
    power = np.array(counts, dtype=np.float64) ** tau
    np.testing.assert_allclose(table.weight, [power / power.sum()], rtol=1e-12)


def test_only_tempered_sources_are_tempered_and_sources_keep_their_weight() -> None:
    counts = {("code", "c"): 100, ("code", "go"): 300, ("web", "deu"): 1_000, ("web", "eng"): 100_000}
    chosen = phase(temperature=0.5, tempered=frozenset({"web"}), sources={"web": 60.0, "code": 20.0})
    table = weights(counts, chosen)
    np.testing.assert_allclose(table.weight[0], [0.25 * 0.25, 0.25 * 0.75, 0.75 / 11, 0.75 * 10 / 11], rtol=1e-12)


def test_without_a_table_sources_weigh_as_their_tokens() -> None:
    table = weights({("a", "x"): 10, ("a", "y"): 10, ("b", "x"): 80}, phase(temperature=0.1))
    np.testing.assert_allclose(table.weight[0], [0.1, 0.1, 0.8], rtol=1e-12)


def test_schedule_moves_in_stages_between_its_ends() -> None:
    table = weights({("a", "x"): 10, ("a", "y"): 1000}, phase(temperature={"from": 0.7, "to": 0.5}))
    assert len(table.temperature) == 32
    assert (np.diff(table.temperature) < 0).all()
    assert abs(table.temperature[0] - 0.7) < 0.004 and abs(table.temperature[-1] - 0.5) < 0.004
    assert table.stage_tokens.sum() == 10**9
    assert [table.stage_of(int(b)) for b in table.first_block] == list(range(32))
    assert table.stage_of(10**9) == 31


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(10, 10**6), st.floats(0.05, 3.0)), min_size=2, max_size=12),
    st.floats(0.1, 1.0),
)
@settings(max_examples=150, deadline=None)
def test_caps_hold_and_nothing_is_lost(rows: list[tuple[str, int, float]], tau: float) -> None:
    counts = {(source, f"{i:02}"): n for i, (source, n, _) in enumerate(sorted(rows))}
    cap = np.array([n * limit for _, n, limit in sorted(rows)])
    asked = 100_000
    chosen = phase(asked, temperature={"from": tau, "to": 0.5}, block_tokens=2048)
    if cap.sum() < asked * (1 - 1e-6):
        with pytest.raises(UserError, match="max_epochs"):
            weights(counts, chosen, cap.tolist())
        return
    if cap.sum() < asked * (1 + 1e-6):
        return
    table = weights(counts, chosen, cap.tolist())
    taken = table.stage_tokens @ table.weight
    assert (taken <= cap * (1 + 1e-8)).all()
    assert (table.weight >= -1e-12).all()
    np.testing.assert_allclose(table.weight.sum(axis=1), 1.0, rtol=1e-9)
    np.testing.assert_allclose(taken[table.capped], cap[table.capped], rtol=1e-8)
    free = weights(counts, chosen).weight
    sources = np.array([source for source, _ in counts])
    for source in set(sources):  # the others keep the proportions of their source
        others = (sources == source) & ~table.capped
        if others.any():
            ratio = table.weight[:, others] / free[:, others]
            np.testing.assert_allclose(ratio, np.broadcast_to(ratio[:, :1], ratio.shape), rtol=1e-9)


def test_a_capped_language_leaves_its_tokens_to_its_own_source() -> None:
    counts = {("a", "x"): 500, ("a", "y"): 500, ("b", "z"): 1000}
    table = weights(counts, phase(1_000_000), [100_000.0, NO_CAP, NO_CAP])
    np.testing.assert_allclose(table.weight[0], [0.1, 0.4, 0.5], rtol=1e-12)
    whole = weights(counts, phase(1_000_000), [100_000.0, 200_000.0, NO_CAP])
    np.testing.assert_allclose(whole.weight[0], [0.1, 0.2, 0.7], rtol=1e-12)


def test_bad_sources() -> None:
    counts = {("web", "eng"): 10, ("books", "eng"): 10}
    with pytest.raises(UserError, match=r"'boks'.*did you mean 'books'"):
        weights(counts, phase(sources={"boks": 1.0, "web": 1.0}))
    with pytest.raises(UserError, match="positive"):
        weights(counts, phase(sources={"books": 0.0, "web": 1.0}))
