from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packs import TEXT, pack, within
from support.synthetic_source import IDS, VOCAB

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.config.data import MaskPolicy
from megatron_mmbert.data.loading.masking import MaskedPack, Masker, scored_positions
from megatron_mmbert.data.sampling.settings import TokenizerIds


def mask(policy: MaskPolicy, scored: int, seed: int = 1, **shape: int) -> tuple[np.ndarray, MaskedPack]:
    tokens, key, position = pack(**shape)
    masker = Masker(IDS, policy, seed)
    return tokens, masker.mask(tokens, masker.stream_keys(key), position, scored)


def chi_square_holds(counts: np.ndarray) -> bool:
    """Counts of a uniform choice: chi-square within five of its standard deviations."""
    expected = counts.sum() / counts.size
    free = counts.size - 1
    return bool(((counts - expected) ** 2 / expected).sum() < free + 5 * np.sqrt(2 * free))


@pytest.mark.parametrize("policy", ["ours", "paper"])
@given(scored=st.integers(1, 3600), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_exactly_k_and_all_else_untouched(policy: MaskPolicy, scored: int, seed: int) -> None:
    tokens, masked = mask(policy, scored, seed)
    assert masked.masked_index_K.shape == masked.label_K.shape == (scored,)
    assert (np.diff(masked.masked_index_K) > 0).all()
    assert (masked.label_K == tokens[masked.masked_index_K]).all()
    untouched = np.ones(len(tokens), dtype=bool)
    untouched[masked.masked_index_K] = False
    assert (masked.tokens_T[untouched] == tokens[untouched]).all()
    assert (masked.label_K != IDS.pad).all()


def test_ours_never_scores_nor_inserts_specials() -> None:
    tokens, masked = mask("ours", 3600, samples=60, pad=5)
    specials = sorted(IDS.specials)
    assert not np.isin(masked.label_K, specials).any()
    changed = masked.tokens_T[masked.masked_index_K]
    inserted = changed[(changed != masked.label_K) & (changed != IDS.mask)]
    assert len(inserted) > 200 and not np.isin(inserted, specials).any()
    assert set(np.flatnonzero(np.isin(tokens, specials))).isdisjoint(masked.masked_index_K.tolist())


def test_special_ids_inside_text_are_left_alone() -> None:
    tokens, key, position = pack()
    tokens[10:60] = 999
    masked = Masker(IDS, "ours", 0).mask(tokens, key, position, 3000)
    assert not ((masked.masked_index_K >= 10) & (masked.masked_index_K < 60)).any()


@pytest.mark.parametrize("policy", ["ours", "paper"])
def test_eighty_ten_ten(policy: MaskPolicy) -> None:
    total = masked_count = kept = 0
    for trial in range(40):
        _, masked = mask(policy, 1200, first=trial * 100)
        now = masked.tokens_T[masked.masked_index_K]
        total += 1200
        masked_count += int((now == IDS.mask).sum())
        kept += int((now == masked.label_K).sum())
    stray = 0.1 / len(TEXT)  # a random id may be the original, or under `paper` the mask id
    assert within(masked_count, total, 0.8 + stray * (policy == "paper"))
    assert within(kept, total, 0.1 + stray)


def test_random_ids_are_uniform_over_what_the_policy_allows() -> None:
    for policy, low, high, allowed in (("ours", 6, 998, len(TEXT)), ("paper", 0, 998, 999)):
        inserted = []
        for trial in range(60):
            _, masked = mask(policy, 1500, first=trial * 100)  # type: ignore[arg-type]
            now = masked.tokens_T[masked.masked_index_K]
            inserted.append(now[(now != masked.label_K) & (now != IDS.mask)])
        ids = np.concatenate(inserted)
        assert ids.min() == low and ids.max() == high
        counts = np.bincount(ids, minlength=999)
        counts = counts[TEXT[TEXT < 999]] if policy == "ours" else np.delete(counts, IDS.mask)
        assert len(counts) in (allowed, allowed - 1)
        assert chi_square_holds(counts)


def test_positions_are_chosen_uniformly() -> None:
    ours, paper = np.zeros(100), np.zeros(100)
    for trial in range(60):
        for counts, policy in ((ours, "ours"), (paper, "paper")):
            _, masked = mask(policy, 800, first=trial * 100)  # type: ignore[arg-type]
            counts += np.bincount(masked.masked_index_K % 100, minlength=100)
    assert ours[0] == ours[99] == 0 and chi_square_holds(ours[1:99])
    assert chi_square_holds(paper)


def test_choices_of_neighbours_are_independent() -> None:
    both = total = 0
    for trial in range(40):
        tokens, masked = mask("ours", 1176, first=trial * 100)  # 30 % of 3920 eligible
        chosen = np.zeros(len(tokens), dtype=bool)
        chosen[masked.masked_index_K] = True
        rows = chosen[:4000].reshape(40, 100)[:, 1:99]
        both += int((rows[:, 1:] & rows[:, :-1]).sum())
        total += rows[:, 1:].size
    assert within(both, total, 0.3 * 1175 / 3919)


def test_draws_belong_to_the_sample_not_to_its_position() -> None:
    """Samples in another order in the pack: the same positions of each sample, the same corruption."""
    tokens, key, position = pack(pad=0)
    masker = Masker(IDS, "ours", 3)
    one = masker.mask(tokens, masker.stream_keys(key), position, 1000)
    order = np.random.default_rng(0).permutation(40)
    columns = [column.reshape(40, 100)[order].ravel() for column in (tokens, key, position)]
    other = masker.mask(columns[0], masker.stream_keys(columns[1]), columns[2], 1000)
    assert (other.tokens_T.reshape(40, 100) == one.tokens_T.reshape(40, 100)[order]).all()


def test_seeds_and_epochs_mask_afresh() -> None:
    _, one = mask("ours", 1176, seed=1)
    _, other = mask("ours", 1176, seed=2)
    tokens, key, position = pack()
    masker = Masker(IDS, "ours", 1)
    epoch = masker.mask(tokens, masker.stream_keys(key + np.uint64(1)), position, 1176)
    for again in (other, epoch):
        overlap = len(np.intersect1d(one.masked_index_K, again.masked_index_K))
        assert within(overlap, 1176, 0.3)


@pytest.mark.parametrize("policy, eligible", [("ours", 4 * 8), ("paper", 4 * 10)])
def test_fewer_eligible_than_k(policy: MaskPolicy, eligible: int) -> None:
    _, masked = mask(policy, 60, samples=4, length=10, pad=40)
    assert (masked.label_K[:eligible] != IGNORED_LABEL).all()
    assert (masked.label_K[eligible:] == IGNORED_LABEL).all()
    assert (masked.masked_index_K[eligible:] == 0).all()
    assert len(set(masked.masked_index_K[:eligible].tolist())) == eligible


def test_paper_draws_up_to_the_largest_id_present() -> None:
    tokens, key, position = pack()
    tokens = np.where(tokens > 50, 50, tokens)
    masked = Masker(IDS, "paper", 0).mask(tokens, key, position, 4000)
    assert masked.tokens_T.max() == 50
    assert set(masked.tokens_T.tolist()) == set(range(51))


def test_an_id_outside_the_vocabulary_is_an_error() -> None:
    tokens, key, position = pack()
    tokens[7] = VOCAB
    with pytest.raises(IndexError):
        Masker(IDS, "ours", 0).mask(tokens, key, position, 10)


def test_k() -> None:
    assert scored_positions(0.3, 8192) == 2458
    assert scored_positions(0.0001, 128) == 1


def test_specials_need_not_be_complete() -> None:
    ids = TokenizerIds(pad=0, bos=2, eos=1, mask=4, specials=frozenset(), vocab_size=VOCAB)
    tokens, key, position = pack()
    masked = Masker(ids, "ours", 0).mask(tokens, key, position, 3900)
    assert not np.isin(masked.label_K, [0, 1, 2, 4]).any()
