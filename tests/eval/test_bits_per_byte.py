"""Held-out bits per byte against a slow reference: one sample at a time, dense softmax in double precision."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.outputs import EvaluationConfig
from megatron_mmbert.data.sampling.settings import TokenizerIds
from megatron_mmbert.eval.bits_per_byte import HeldOut
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.utils.errors import UserError

VOCAB, MAX_LENGTH, ROUNDS = 64, 24, 2
IDS = TokenizerIds(pad=0, bos=2, eos=1, mask=4, specials=frozenset(range(5)), vocab_size=VOCAB)
PIECE_BYTES = np.array([0] * 5 + [1 + number % 4 for number in range(5, VOCAB)], dtype=np.int32)
SETTINGS = EvaluationConfig(mask_ratio=0.2, tokens_per_language=200, rounds=ROUNDS)
MODEL = ModelConfig(
    num_layers=2,
    hidden_size=32,
    ffn_hidden_size=48,
    num_attention_heads=2,
    vocab_size=VOCAB,
    max_length=64,
    window_each_side=8,
    init_std=0.3,  # far from uniform predictions, so that a wrong position would show
    attention_output_dropout=0.5,  # would show too, if scoring left it on
)


class Name(NamedTuple):
    source: str
    language: str


class MemoryStore:
    """Random documents in memory; a language of two sources among them."""

    vocab_size = VOCAB

    def __init__(self, lengths: Mapping[tuple[str, str], Sequence[int]]) -> None:
        draw = np.random.default_rng(0)
        self.documents = {
            Name(*name): [draw.integers(5, VOCAB, length) for length in each] for name, each in lengths.items()
        }
        self.datasets = list(self.documents)

    def document_lengths(self, source: str, language: str) -> np.ndarray:
        return np.array([len(document) for document in self.documents[Name(source, language)]])

    def tokens(self, source: str, language: str, document: int, start: int, stop: int) -> np.ndarray:
        return self.documents[Name(source, language)][document][start:stop]

    def reader(self, source: str, language: str) -> Any:
        return partial(self.tokens, source, language)


def store() -> Any:
    """Documents that fit a sample, that are cut, of one token; more text than is asked for in one language."""
    return MemoryStore(
        {
            ("web", "eng"): [10, 60, 1, 22, 23],
            ("books", "eng"): [40],
            ("web", "deu"): [30] * 40,
            ("web", "smo"): [5],
        }
    )


def held_out() -> HeldOut:
    return HeldOut(store(), IDS, PIECE_BYTES, SETTINGS, MAX_LENGTH)


def encoder(seed: int) -> Encoder:
    made = Encoder(encoder_config(MODEL, 10_000.0, 10_000.0), VOCAB)
    initialize(made, seed)
    return made


def samples(text: HeldOut) -> list[tuple[int, np.ndarray, dict[int, int]]]:
    """Return (dataset, ids with masks, {position: label}) of every sample, taken out of its pack."""
    taken = []
    for batch in text._batches:
        ends = batch.cu_seqlens.tolist()
        label_of = dict(zip(batch.masked_index_K.tolist(), batch.label_K.tolist(), strict=True))
        for dataset, start, stop in zip(batch.dataset_S.tolist(), ends[:-1], ends[1:], strict=True):
            if dataset >= 0:
                labels = {at - start: label_of[at] for at in range(start, stop) if label_of.get(at, -100) >= 0}
                taken.append((dataset, batch.tokens_T[start:stop].numpy(), labels))
    return taken


def test_the_scored_text_is_the_stores_text() -> None:
    """Each round holds the first documents of every language whole, and masks its share of them."""
    text, source = held_out(), store()
    names = sorted(source.documents)
    restored: dict[str, list[tuple[int, ...]]] = {}
    scored = total = 0
    for dataset, ids, labels in samples(text):
        assert ids[0] == IDS.bos and ids[-1] == IDS.eos and len(ids) <= MAX_LENGTH
        assert sorted(labels) == np.flatnonzero(ids == IDS.mask).tolist(), "masked and scored positions are the same"
        whole = ids.copy()
        whole[list(labels)] = list(labels.values())
        restored.setdefault(f"{names[dataset]}", []).append(tuple(whole[1:-1].tolist()))
        scored, total = scored + len(labels), total + len(ids)
    for name in names:
        ids = [token for example in sorted(restored[f"{name}"]) for token in example]
        documents = [int(token) for document in source.documents[name] for token in document]
        budget = SETTINGS.tokens_per_language
        if len(documents) <= budget:
            assert sorted(ids) == sorted(documents * ROUNDS)
        else:
            assert budget - MAX_LENGTH < len(ids) / ROUNDS <= budget
    assert scored == pytest.approx(SETTINGS.mask_ratio * total, abs=ROUNDS)


def test_a_language_without_text_changes_nothing_for_the_others() -> None:
    with_empty = MemoryStore({("web", "aaa"): [0, 0], ("web", "eng"): [10, 60], ("web", "smo"): [5]})
    without = MemoryStore({("web", "eng"): [10, 60], ("web", "smo"): [5]})
    without.documents = {name: with_empty.documents[name] for name in without.documents}
    first, second = (samples(HeldOut(each, IDS, PIECE_BYTES, SETTINGS, MAX_LENGTH)) for each in (with_empty, without))  # type: ignore[arg-type]
    assert [(ids.tolist(), labels) for _, ids, labels in first] == [(ids.tolist(), labels) for _, ids, labels in second]


def test_rounds_mask_other_positions() -> None:
    masked = samples(held_out())
    by_text: dict[tuple[int, ...], list[list[int]]] = {}
    for _, ids, labels in masked:
        whole = ids.copy()
        whole[list(labels)] = list(labels.values())
        by_text.setdefault(tuple(whole.tolist()), []).append(sorted(labels))
    assert all(len(masks) == ROUNDS for masks in by_text.values())
    assert sum(first != second for first, second in by_text.values()) > len(by_text) / 2


def test_scores_equal_a_slow_reference(runtime: object) -> None:
    text, model = held_out(), encoder(3)
    scores = text.score(model)
    languages = [name.language for name in sorted(store().documents)]
    nats: dict[str, float] = dict.fromkeys(languages, 0.0)
    size: dict[str, int] = dict.fromkeys(languages, 0)
    tokens: dict[str, int] = dict.fromkeys(languages, 0)
    values: list[float] = []
    model.eval()
    with torch.no_grad():
        for dataset, ids, labels in samples(text):
            alone = PackedSequences.of(torch.tensor([0, len(ids)], dtype=torch.int32), len(ids))
            logits_TV = model.logits(model(torch.from_numpy(ids), alone)).double().numpy()
            for position, label in labels.items():
                row = logits_TV[position]
                values.append(float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[label]))
                nats[languages[dataset]] += values[-1]
                size[languages[dataset]] += int(PIECE_BYTES[label])
                tokens[languages[dataset]] += 1
    assert set(scores) == {"deu", "eng", "smo"}
    for language, score in scores.items():
        assert (score.bytes, score.tokens) == (size[language], tokens[language])
        assert score.bits_per_byte == pytest.approx(nats[language] / math.log(2) / size[language], rel=1e-6)
    assert np.std(values) > 0.2, "predictions differ enough from one another for a wrong position to show"


def test_two_models_are_asked_the_same(runtime: object) -> None:
    asked: list[list[torch.Tensor]] = [[], []]
    for seen, seed, text in zip(asked, (1, 2), (held_out(), held_out()), strict=True):
        model = encoder(seed)
        model.register_forward_pre_hook(lambda _, inputs, seen=seen: seen.append(inputs[0].clone()))
        model.train()
        first, second = text.score(model), text.score(model)
        assert first == second, "dropout is off"
        assert model.training, "the model is left as it was"
    assert len(asked[0]) == len(asked[1]) > 0
    assert all(torch.equal(one, two) for one, two in zip(*asked, strict=True))


def test_scores_of_nan_end_in_a_sentence(runtime: object) -> None:
    model = encoder(0)
    with torch.no_grad():
        dict(model.named_parameters())["embedding.word_embeddings.weight"][4] = float("nan")
    with pytest.raises(UserError, match=r"the model's score of .* is nan; weights or arithmetic are at fault"):
        held_out().score(model)
