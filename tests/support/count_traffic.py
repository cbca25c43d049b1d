"""Counts what real training steps hand to torch.distributed, in ranks forked from this process.

    python tests/support/count_traffic.py '[[2, {"tensor": 2}], ...]'     # ranks and the recipe's parallel section

Prints one JSON list: for each layout and rank, its pipeline number and the bytes that a ring would have it send in one
step, by the kind of ranks that it exchanges them with.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing
from megatron.core import parallel_state
from megatron.core.distributed import param_and_grad_buffer
from megatron.core.tensor_parallel import layers, mappings

from megatron_mmbert import parallel
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.train.step import build_training, training_step

MODEL = {"num_layers": 5, "hidden_size": 64, "ffn_hidden_size": 96, "num_attention_heads": 4, "vocab_size": 2048}
TOKENS, SAMPLE, SCORED_ROWS, MICRO_BATCHES = 256, 64, 64, 4  # micro batches of one rank


def recipe_of(section: dict[str, Any], dtype: str = "bf16") -> Recipe:
    batch = {"tokens_per_step": TOKENS * 64, "tokens_per_micro_batch": TOKENS}
    phase = {"name": "only", "tokens": 10**6, "mask_ratio": SCORED_ROWS / TOKENS, "max_length": SAMPLE, "lr": 1e-4}
    sections = {"parallel": section, "precision": {"dtype": dtype}, "data": {"stores": ["none"]}}
    phases = [phase | {"batch": batch}]
    return Recipe.model_validate(
        {"name": "count", "model": MODEL, "tokenizer": {"path": "none"}, "phases": phases, **sections}
    )


def pack() -> PackedBatch:
    tokens_T = torch.randint(0, MODEL["vocab_size"], (TOKENS,))
    scored_K = torch.arange(SCORED_ROWS) * (TOKENS // SCORED_ROWS)
    bounds = torch.arange(0, TOKENS + 1, SAMPLE, dtype=torch.int32)
    dataset_S = torch.zeros(len(bounds) - 1, dtype=torch.int32)
    position_T = torch.arange(TOKENS) % SAMPLE
    return PackedBatch(tokens_T, position_T, bounds, SAMPLE, scored_K, tokens_T[scored_K], dataset_S, TOKENS, (0,))


class Counter:
    """Wraps the functions of torch.distributed by which the step talks, also where Megatron-Core holds on to them."""

    def __init__(self) -> None:
        self.sent: dict[str, float] = defaultdict(float)
        self._kinds = {tuple(range(dist.get_world_size())): "world"}
        for kind, ranks in (
            ("pipeline", dist.get_process_group_ranks(parallel_state.get_pipeline_model_parallel_group())),
            ("data", dist.get_process_group_ranks(parallel_state.get_data_parallel_group())),
            ("tensor", dist.get_process_group_ranks(parallel_state.get_tensor_model_parallel_group())),
        ):
            self._kinds[tuple(ranks)] = kind
        dist.all_reduce = self._counting(dist.all_reduce, 0, 2)
        for name in ("isend", "send"):
            setattr(dist, name, self._counting(getattr(dist, name), 0, 0))
        for module in (layers, mappings, param_and_grad_buffer):
            for name, whole in (("dist_all_gather_func", 0), ("dist_reduce_scatter_func", 1)):
                setattr(module, name, self._counting(getattr(module, name), whole, 1))

    def _counting(self, function: Callable[..., Any], whole: int, rounds: int) -> Callable[..., Any]:
        """Args:
        whole: which argument is the whole tensor: what is gathered, or scattered.
        rounds: times that a ring passes it on, each time but the share of one rank; 0 for a send.
        """

        def call(*args: Any, **kwargs: Any) -> Any:
            group = kwargs.get("group")
            ranks = dist.get_process_group_ranks(group or dist.group.WORLD)
            message = args[whole] if args else kwargs["tensor"]
            share = rounds * (len(ranks) - 1) / len(ranks) if rounds else 1
            kind = self._kinds[tuple(ranks)] if rounds else "pipeline"  # a send names a rank, not a group
            self.sent[kind] += share * message.numel() * message.element_size()
            return function(*args, **kwargs)

        return call


def rank(number: int, ranks: int, section: dict[str, Any], port: int, folder: str) -> None:
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    recipe = recipe_of(section)
    given = recipe.parallel
    parallel.enable_cpu_mode()
    parallel.start(given.tensor, given.pipeline, timeout_minutes=2, virtual_stages=given.virtual_stages)
    counter, phase = Counter(), recipe.phases[0]
    training = build_training(recipe, phase)
    for _ in range(2):  # with overlap, the second step gathers what the first has updated
        counter.sent.clear()
        training_step(training, [pack() for _ in range(MICRO_BATCHES)], 1e-4, phase, 0.0, 1)
    found = {"stage": parallel.current().pp_rank, "sent": counter.sent}
    Path(folder, str(number)).write_text(json.dumps(found))
    parallel.shutdown()


def count(ranks: int, section: dict[str, Any]) -> list[dict[str, Any]]:
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        torch.multiprocessing.start_processes(rank, (ranks, section, port, folder), ranks, start_method="fork")
        return [json.loads(Path(folder, str(number)).read_text()) for number in range(ranks)]


if __name__ == "__main__":
    print(json.dumps([count(ranks, section) for ranks, section in json.loads(sys.argv[1])]))
