"""The memory estimate: what it is made of, and that it is what a real step holds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.run_to_save import MODEL, Run

from megatron_mmbert.checkpoint.save_plan import RankSavePlan
from megatron_mmbert.checkpoint.training_state import state_of
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.precision import Dtype
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.plan.memory import in_flight, max_memory, rank_memory
from megatron_mmbert.plan.parallel_layout import ParallelLayout, rank_parameters, stage_parts

BASE = ModelConfig()
ONE = ParallelLayout(precision="fp32")


def test_parameters_of_one_rank_are_those_of_the_model() -> None:
    (whole,) = stage_parts(BASE, ONE)
    decoder_bias_and_transform = 256_000 + 768 * 768 + 768
    layers = 22 * (4 * 768 * 768 + 3 * 768 * 1152) + (2 * 22 - 1) * 768
    assert rank_parameters(BASE, ONE, whole) == 256_000 * 768 + 2 * 768 + layers + decoder_bias_and_transform


def test_stages_hold_all_layers_once_and_the_table_twice() -> None:
    layout = replace(ONE, pipeline=2, virtual=2)
    found = stage_parts(BASE, layout)
    assert sorted(layer for part in found for layer in part.layers) == list(range(22))
    held = sum(rank_parameters(BASE, layout, part) for part in found)
    assert held == rank_parameters(BASE, ONE, stage_parts(BASE, ONE)[0]) + 256_000 * 768


def test_the_distributed_optimizer_shares_out_its_state_and_nothing_else() -> None:
    alone = rank_memory(BASE, replace(ONE, data=8), 0)
    shared = rank_memory(BASE, replace(ONE, data=8, distributed_optimizer=True), 0)
    assert shared.optimizer == alone.optimizer / 8
    assert (shared.weights, shared.gradients) == (alone.weights, alone.gradients)


def test_recompute_and_sequence_parallelism_keep_less() -> None:
    kept = [
        rank_memory(BASE, replace(ONE, tensor=2, **changes), 0).activations  # type: ignore[arg-type]
        for changes in ({}, {"sequence": True}, *({"recompute": kind} for kind in ("light", "selective", "full")))
    ]
    assert kept[0] > kept[1]
    assert kept[0] > max(kept[2:4]) and min(kept[2:4]) > kept[4]


def test_micro_batches_in_flight() -> None:
    layout = replace(ONE, pipeline=4, micro_batches=8)
    assert [in_flight(layout, rank) for rank in range(4)] == [4, 3, 2, 1]
    assert in_flight(replace(layout, micro_batches=2), 0) == 2
    assert in_flight(replace(layout, virtual=2), 0) == (2 * 3 + 4 + 1) / 2


def test_mmbert_base_in_bf16_has_18_bytes_a_parameter() -> None:
    found = max_memory(BASE, ParallelLayout(micro_tokens=65_536))
    parameters = rank_parameters(BASE, ONE, stage_parts(BASE, ONE)[0])
    assert found.weights + found.gradients + found.optimizer == pytest.approx(18 * parameters)
    assert 0.35e6 * 65_536 < found.activations < 0.55e6 * 65_536


@pytest.mark.slow
def test_estimates_are_within_10_percent_of_what_ranks_hold() -> None:
    """Five layouts, three minutes on a quiet machine; see benchmarks/memory.py."""
    script = Path(__file__).resolve().parents[2] / "benchmarks/memory.py"
    settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    for which in range(5):
        command = [sys.executable, "-W", "ignore", str(script), "--json", "--only", str(which)]
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert abs(found["ratio"] - 1) < 0.1, found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_copy_is_what_a_save_copies(precision: Dtype, runtime: Runtime, tmp_path: Path) -> None:
    run = Run(1, precision)
    run.train(1)
    share = RankSavePlan(copies=False).shards_of(state_of(run.encoder, run.optimizer), tmp_path)
    estimate = rank_memory(MODEL, ParallelLayout(precision=precision, micro_tokens=256), 0).host_copy
    assert share.bytes == pytest.approx(estimate, rel=0.001)
