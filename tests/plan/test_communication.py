"""Bytes that ranks send, against values worked out by hand and against what real steps exchange."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
from support import ROOT

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.parallel import Recompute
from megatron_mmbert.plan.communication import Inside, Leaving, inside_node, leaving, rank_traffic
from megatron_mmbert.plan.parallel_layout import ParallelLayout

MODEL = ModelConfig(num_layers=4, hidden_size=64, ffn_hidden_size=128, num_attention_heads=4, vocab_size=1024)
LAYOUT = ParallelLayout(
    tensor=2, pipeline=2, data=2, micro_tokens=1000, scored=0.2, micro_batches=3, layers_per_stage=(1, 3)
)


def test_first_and_last_stage_by_hand() -> None:
    first, last = (rank_traffic(MODEL, LAYOUT, rank) for rank in (0, 1))
    hidden = 2 * 1000 * 64  # bytes of a micro batch's hidden states
    of_scored_rows = 3 * 3 * hidden * 0.8  # what three exchanges of the last layer leave out
    assert (first.layers, last.layers) == (4 * 3 * hidden, pytest.approx(4 * 3 * 3 * hidden - of_scored_rows))
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
    assert rank_traffic(MODEL, ParallelLayout(), 0).total == 0


def test_recompute_repeats_the_forward_exchanges() -> None:
    kinds: tuple[Recompute, ...] = ("none", "light", "selective", "full")
    sent = [rank_traffic(MODEL, replace(LAYOUT, recompute=kind), 0).layers for kind in kinds]
    assert [count / sent[0] for count in sent] == [1, 1, 1.25, 1.5]


def test_groups_inside_a_node() -> None:
    assert inside_node(replace(LAYOUT, data=4), 8) == Inside(tensor=True, data=True, pipeline=False)
    assert inside_node(replace(LAYOUT, tensor=3), 8).tensor is False


def test_what_leaves_a_node() -> None:
    """Sixteen data-parallel ranks of two tensor-parallel ones: four of them in each node of eight."""
    assert leaving(ParallelLayout(tensor=2, data=16), 8) == Leaving(tensor=0, data=1 / 4, pipeline=1)
    assert leaving(ParallelLayout(tensor=2, data=4), 8) == Leaving(0, 0, 0)
    assert leaving(ParallelLayout(data=2, pipeline=8), 8) == Leaving(0, 0, 1)
    assert leaving(ParallelLayout(tensor=16), 8).tensor == 1 / 8


COUNTED: list[tuple[int, dict[str, Any]]] = [
    (2, {"tensor": 2}),
    (2, {"tensor": 2, "recompute": "full"}),
    (2, {"tensor": 2, "sequence": True, "recompute": "selective"}),
    (2, {"distributed_optimizer": True, "overlap": True, "bucket_elements": 20_000}),
    (2, {"overlap": True, "bucket_elements": 20_000}),
    (2, {"pipeline": 2, "virtual_stages": 2}),
    (4, {"tensor": 2, "pipeline": 2, "sequence": True, "recompute": "full"}),
    (4, {"tensor": 2, "sequence": True, "distributed_optimizer": True}),
]
SMALL = ModelConfig(num_layers=5, hidden_size=64, ffn_hidden_size=96, num_attention_heads=4, vocab_size=2048)


def by_formula(ranks: int, section: dict[str, Any], stage: int) -> dict[str, float]:
    """Bytes sent to each kind of ranks, of those steps that ``count_traffic.py`` takes."""
    changes = {name: value for name, value in section.items() if name not in ("bucket_elements", "overlap")}
    changes["virtual"] = changes.pop("virtual_stages", 1)
    layout = replace(ParallelLayout(micro_tokens=256, scored=0.25, micro_batches=4), **changes).with_ranks(ranks)
    sent = rank_traffic(SMALL, layout, stage)
    kinds = {"tensor": sent.tensor, "data": sent.gradients + sent.weights, "pipeline": sent.pipeline + sent.tied}
    return {kind: count for kind, count in kinds.items() if count}


@pytest.fixture(scope="module")
def counted() -> list[list[dict[str, Any]]]:
    """Bytes of real steps: in a process of its own, whose ranks are forked."""
    script = ROOT / "tests/support/count_traffic.py"
    command = [sys.executable, "-W", "ignore", str(script), json.dumps(COUNTED)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("which", range(len(COUNTED)), ids=[json.dumps(section) for _, section in COUNTED])
def test_real_steps_send_these_bytes(counted: list[list[dict[str, Any]]], which: int) -> None:
    """Within 1 %: the RMS, the loss, counts of rows, and the padding of the distributed optimizer's buffers are left
    out of the formula."""
    for rank in counted[which]:
        expected = by_formula(*COUNTED[which], rank["stage"])
        assert expected, "a layout of several ranks sends something"
        for kind, sent in expected.items():
            assert rank["sent"][kind] == pytest.approx(sent, rel=0.01), kind
        others = sum(sent for kind, sent in rank["sent"].items() if kind not in expected)
        assert others < 0.01 * sum(expected.values())


def test_the_bytes_of_another_layout_would_be_noticed(counted: list[list[dict[str, Any]]]) -> None:
    sent = counted[1][0]["sent"]["tensor"]
    assert sent != pytest.approx(by_formula(*COUNTED[0], 0)["tensor"], rel=0.01)
