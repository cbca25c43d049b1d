"""Bytes that ranks send, against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from megatron_mmbert.config.recipe import ModelConfig
from megatron_mmbert.plan.communication import Inside, inside_node, rank_traffic
from megatron_mmbert.plan.layout import Layout

MODEL = ModelConfig(num_layers=4, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, vocab_size=1024)
LAYOUT = Layout(tensor=2, pipeline=2, data=2, micro_tokens=1000, scored=0.2, micro_batches=3, layers_per_stage=(1, 3))


def test_first_and_last_stage_by_hand() -> None:
    first, last = (rank_traffic(MODEL, LAYOUT, rank) for rank in (0, 1))
    hidden = 2 * 1000 * 64  # bytes of a micro batch's hidden states
    assert (first.layers, last.layers) == (4 * 3 * hidden, 4 * 3 * 3 * hidden)
    assert (first.embedding, last.embedding) == (3 * hidden, 0)
    assert (first.head, last.head) == (0, pytest.approx(3 * 200 * (2 * 64 + 12)))
    assert first.pipeline == last.pipeline == 3 * hidden
    assert first.tied == last.tied == 4 * 1024 * 64 / 2
    layer = (4 * 64 * 64 + 3 * 64 * 128) / 2
    assert first.gradients == 2 * 4 / 2 * (layer + 64 + 1024 * 64 / 2 + 64)
    assert first.weights == 0


def test_sequence_parallelism_and_the_distributed_optimizer() -> None:
    plain = rank_traffic(MODEL, LAYOUT, 0)
    found = rank_traffic(MODEL, replace(LAYOUT, sequence=True, distributed_optimizer=True), 0)
    assert found.layers == 5 * 3 * 2 * 1000 * 64 + 4 * 2 * 64  # the embedding's norm and the layer's one
    assert found.pipeline == plain.pipeline / 2
    assert (found.gradients, found.weights) == (plain.gradients / 2, plain.gradients / 4)


def test_one_rank_sends_nothing() -> None:
    assert rank_traffic(MODEL, Layout(), 0).total == 0


def test_recompute_repeats_the_forward_exchanges() -> None:
    sent = [rank_traffic(MODEL, replace(LAYOUT, recompute=kind), 0).layers for kind in ("none", "selective", "full")]  # type: ignore[arg-type]
    assert [count / sent[0] for count in sent] == [1, 1.25, 1.5]


def test_groups_inside_a_node() -> None:
    assert inside_node(replace(LAYOUT, data=4), 8) == Inside(tensor=True, data=True, pipeline=False)
    assert inside_node(replace(LAYOUT, tensor=3), 8).tensor is False
