from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.packs import pack, within
from support.synthetic_source import IDS, VOCAB, data_phase

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.config.data import MaskPolicy, MaskUnit
from megatron_mmbert.data.loading.masking import Masker
from megatron_mmbert.data.loading.masking_units import choose_units, word_marks
from megatron_mmbert.data.sampling.settings import WordMarks
from megatron_mmbert.utils.errors import UserError

BEGINS = np.arange(VOCAB) % 3 == 0
ALONE = np.arange(VOCAB) % 30 == 0
WORDS = replace(IDS, words=WordMarks(BEGINS | ALONE, ALONE))
POLICIES: list[MaskPolicy] = ["ours", "paper"]


def reference_words(tokens: list[int], position: list[int], eligible: list[bool]) -> list[list[int]]:
    """Return the positions of each word, one after the other."""
    words: list[list[int]] = []
    for index, token in enumerate(tokens):
        if not eligible[index]:
            continue
        continues = (
            position[index] > 0
            and eligible[index - 1]
            and not BEGINS[token]
            and not ALONE[token]
            and not ALONE[tokens[index - 1]]
        )
        if continues:
            words[-1].append(index)
        else:
            words.append([index])
    return words


@pytest.mark.parametrize("policy", POLICIES)
@given(scored=st.integers(1, 3600), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=25, deadline=None)
def test_whole_words_and_exactly_k(policy: MaskPolicy, scored: int, seed: int) -> None:
    tokens, key, position = pack()
    masker = Masker(WORDS, policy, seed, "word")
    masked = masker.mask(tokens, masker.stream_keys(key), position, scored)
    assert (masked.label_K == tokens[masked.masked_index_K]).all()
    chosen = set(masked.masked_index_K.tolist())
    assert len(chosen) == scored
    never = {IDS.pad} if policy == "paper" else IDS.specials
    eligible = [token not in never for token in tokens.tolist()]
    cut = [word for word in reference_words(tokens.tolist(), position.tolist(), eligible) if chosen & set(word)]
    cut = [word for word in cut if not chosen >= set(word)]
    assert len(cut) <= 1
    for word in cut:
        kept = [index in chosen for index in word]
        assert kept == sorted(kept, reverse=True)  # its first positions
    assert all(eligible[index] for index in chosen)


def test_every_word_is_as_likely() -> None:
    counts: dict[int, list[int]] = {}
    for trial in range(150):
        tokens, key, position = pack(first=trial * 100)
        masker = Masker(WORDS, "ours", 1, "word")
        chosen = set(masker.mask(tokens, masker.stream_keys(key), position, 1176).masked_index_K.tolist())
        eligible = [token not in IDS.specials for token in tokens.tolist()]
        for word in reference_words(tokens.tolist(), position.tolist(), eligible):
            counts.setdefault(min(len(word), 8), []).append(word[0] in chosen)
    everything = sum(map(sum, counts.values())) / sum(map(len, counts.values()))
    assert everything == pytest.approx(0.3, abs=0.01)
    for hits in counts.values():
        assert within(sum(hits), len(hits), everything)


def spans(masked_index: np.ndarray, rows: int = 40, length: int = 100) -> np.ndarray:
    """Lengths of runs of scored positions inside the samples."""
    scored = np.zeros(rows * length, dtype=bool)
    scored[masked_index] = True
    edges = np.diff(np.pad(scored.reshape(rows, length), ((0, 0), (1, 1))).astype(int), axis=1)
    return np.concatenate([np.flatnonzero(row == -1) - np.flatnonzero(row == 1) for row in edges])


def test_spans_have_geometric_lengths() -> None:
    """Few spans, so that hardly any two touch; 98 text positions, so that ends of samples cut a few."""
    span_lengths = []
    for trial in range(300):
        tokens, key, position = pack(first=trial * 100)
        masker = Masker(IDS, "ours", 1, "span")
        span_lengths.append(spans(masker.mask(tokens, masker.stream_keys(key), position, 60).masked_index_K))
    lengths = np.concatenate(span_lengths)
    assert lengths.mean() == pytest.approx(3.0, rel=0.05)
    for length in (1, 2, 3, 5):
        assert (lengths == length).mean() == pytest.approx((1 / 3) * (2 / 3) ** (length - 1), abs=0.03)
    tokens, key, position = pack()
    single = Masker(IDS, "ours", 1)
    assert spans(single.mask(tokens, single.stream_keys(key), position, 60).masked_index_K).mean() < 1.2


@pytest.mark.parametrize("policy", POLICIES)
@given(scored=st.integers(1, 5000), seed=st.integers(0, 2**64 - 1))
@settings(max_examples=25, deadline=None)
def test_spans_score_exactly_k(policy: MaskPolicy, scored: int, seed: int) -> None:
    tokens, key, position = pack()
    masker = Masker(IDS, policy, seed, "span")
    masked = masker.mask(tokens, masker.stream_keys(key), position, scored)
    possible = 4000 if policy == "paper" else 40 * 98
    valid = masked.label_K != IGNORED_LABEL
    assert valid.sum() == min(scored, possible)
    assert len(masked.masked_index_K) == scored and not valid[min(scored, possible) :].any()
    assert len(set(masked.masked_index_K[valid].tolist())) == valid.sum()


@pytest.mark.parametrize("unit", ["word", "span"])
def test_eighty_ten_ten_and_spans_as_a_whole(unit: MaskUnit) -> None:
    total = masked_count = kept = mixed = pairs = 0
    for trial in range(60):
        tokens, key, position = pack(first=trial * 100)
        masker = Masker(WORDS, "ours", 1, unit)
        masked = masker.mask(tokens, masker.stream_keys(key), position, 600)
        now = masked.tokens_T[masked.masked_index_K]
        is_mask = now == IDS.mask
        total, masked_count = total + 600, masked_count + int(is_mask.sum())
        kept += int((now == masked.label_K).sum())
        together = np.diff(masked.masked_index_K) == 1
        pairs += int(together.sum())
        mixed += int((together & (is_mask[1:] != is_mask[:-1])).sum())
    assert masked_count / total == pytest.approx(0.8, abs=0.02)  # spans decide together: fewer independent draws
    assert kept / total == pytest.approx(0.1, abs=0.015)
    part = mixed / pairs  # neighbours decided alone differ in 2 x 0.8 x 0.2 of all cases
    assert part == pytest.approx(0.32, abs=0.02) if unit == "word" else part < 0.12


@pytest.mark.parametrize("unit", ["word", "span"])
def test_draws_belong_to_the_sample_not_to_its_position(unit: MaskUnit) -> None:
    tokens, key, position = pack(pad=0)
    masker = Masker(WORDS, "ours", 3, unit)
    one = masker.mask(tokens, masker.stream_keys(key), position, 1000).tokens_T.reshape(40, 100)
    order = np.random.default_rng(0).permutation(40)
    columns = [column.reshape(40, 100)[order].ravel() for column in (tokens, key, position)]
    other = masker.mask(columns[0], masker.stream_keys(columns[1]), columns[2], 1000).tokens_T.reshape(40, 100)
    assert (other == one[order]).all(axis=1).sum() >= 39  # the unit that is cut is the same, and in one sample


def test_choose_units_by_hand() -> None:
    begins = np.array([1, 0, 1, 1, 0, 0, 1], dtype=bool)  # units of 2, 1, 3, 1
    draw = (np.array([30, 0, 20, 10, 0, 0, 40]) << 40).astype(np.uint64)  # in the order 3, 1, 2, 1
    for scored, expected in ((2, [3, 4]), (3, [3, 4, 5]), (5, [0, 2, 3, 4, 5]), (9, [0, 1, 2, 3, 4, 5, 6])):
        chosen, first = choose_units(begins, draw, scored)
        assert np.flatnonzero(chosen).tolist() == expected
    assert first.tolist() == [0, 0, 2, 3, 3, 3, 6]


def test_marks_of_pieces() -> None:
    pieces = [
        "▁the",
        "ing",
        ",",
        "日本",
        "▁日",
        "ที่",
        "한국",
        "▁한국",
        "<0xE4>",
        "<0xB8>",
        "\n",
        "▁",
        "й",
        "<unk>",
    ]
    marks = word_marks(pieces)
    begins = [piece for piece, flag in zip(pieces, marks.begins, strict=True) if flag]
    alone = [piece for piece, flag in zip(pieces, marks.alone, strict=True) if flag]
    assert begins == ["▁the", "日本", "▁日", "ที่", "▁한국", "<0xE4>", "\n", "▁"]
    assert alone == ["日本", "▁日", "ที่", "\n"]


def test_bad_settings() -> None:
    with pytest.raises(ValueError, match="words"):
        Masker(IDS, "ours", 0, "word")
    with pytest.raises(UserError, match="mask_unit"):
        data_phase("p", 1000, 128, 1024, mask_unit="sentence")
