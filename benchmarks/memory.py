"""The memory that `tools/plan_run.py` estimates, beside what ranks really held, for several layouts; three minutes.

    python benchmarks/memory.py            # all layouts; writes docs/results/memory.json
    python benchmarks/memory.py --only 1   # the second layout alone; prints only

Real training steps on gloo: the model, optimizer and step that `pretrain` uses, on random tokens, at a shape whose
tensors outweigh the interpreter many times. Every rank first trains a tiny model of the same layout, so that libraries
and thread pools are there; then its memory is noted, VmHWM reset, the model built and two steps taken. *Measured* is
VmHWM less what was noted, on the rank that held most. Blocks of 64 KiB and more go back to the system when they are
freed (MALLOC_MMAP_THRESHOLD_), or the allocator's holes would be measured. fp32 only: in bf16 a CPU's matrix products
take memory of their own, and the estimate is too low.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from results import machine, save

from megatron_mmbert import parallel
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.plan.memory import max_memory
from megatron_mmbert.plan.parallel_layout import parallel_layout
from megatron_mmbert.train.step import build_training, training_step
from megatron_mmbert.utils.text_table import table

SHAPE = {"num_layers": 8, "hidden_size": 256, "ffn_hidden_size": 384, "num_attention_heads": 4, "vocab_size": 65_536}
TINY = {"num_layers": 4, "hidden_size": 32, "ffn_hidden_size": 48, "num_attention_heads": 2, "vocab_size": 512}
TOKENS, SAMPLE, SCORED, MICRO_BATCHES = 4096, 512, 0.3, 2
LAYOUTS: list[tuple[int, str, dict[str, Any]]] = [  # ranks, precision, the recipe's parallel section
    (1, "fp32", {}),
    (1, "fp32", {"recompute": "full"}),
    (2, "fp32", {"tensor": 2, "sequence": True}),
    (2, "fp32", {"pipeline": 2}),
    (2, "fp32", {"distributed_optimizer": True}),
]


def recipe_of(shape: dict[str, int], precision: str, section: dict[str, Any]) -> Recipe:
    batch = {"tokens_per_step": TOKENS * MICRO_BATCHES * 2, "tokens_per_micro_batch": TOKENS}
    phase = {"name": "only", "tokens": 10**6, "mask_ratio": SCORED, "max_length": SAMPLE, "lr": 1e-4, "batch": batch}
    sections = {"parallel": section, "precision": {"dtype": precision}, "data": {"stores": ["none"]}}
    return Recipe.model_validate(
        {"name": "memory", "model": shape, "tokenizer": {"path": "none"}, "phases": [phase], **sections}
    )


def pack(vocabulary: int, tokens: int) -> PackedBatch:
    scored = torch.arange(round(SCORED * tokens)) * tokens // round(SCORED * tokens)
    tokens_T = torch.randint(0, vocabulary, (tokens,))
    boundaries = torch.arange(0, tokens + 1, min(SAMPLE, tokens), dtype=torch.int32)
    position_T = torch.arange(tokens) % min(SAMPLE, tokens)
    dataset_S = torch.zeros(len(boundaries) - 1, dtype=torch.int32)
    label_K = tokens_T[scored]
    return PackedBatch(tokens_T, position_T, boundaries, min(SAMPLE, tokens), scored, label_K, dataset_S, tokens, (0,))


def train(recipe: Recipe, tokens: int, steps: int) -> None:
    phase = recipe.phases[0]
    training = build_training(recipe, phase)
    for _ in range(steps):
        packs = [pack(recipe.model.vocab_size, tokens) for _ in range(MICRO_BATCHES)]
        training_step(training, packs, 1e-4, phase, 0.0, 1)


def status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def rank(number: int, which: int, port: int, folder: str) -> None:
    ranks, precision, section = LAYOUTS[which]
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    small, large = (recipe_of(shape, precision, section) for shape in (TINY, SHAPE))
    parallel.enable_cpu_mode()
    parallel.start(large.parallel.tensor, large.parallel.pipeline, timeout_minutes=4)
    train(small, 512, 2)
    held = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    train(large, TOKENS, 2)
    Path(folder, str(number)).write_text(str(status("VmHWM") - held))
    parallel.shutdown()


def measure(which: int) -> dict[str, Any]:
    """Fork the ranks of one layout; Megatron-Core is imported already."""
    ranks, precision, section = LAYOUTS[which]
    with socket.socket() as probe, tempfile.TemporaryDirectory() as folder:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        probe.close()
        torch.multiprocessing.start_processes(rank, (which, port, folder), ranks, start_method="fork")
        held = [int(Path(folder, str(number)).read_text()) for number in range(ranks)]
    recipe = recipe_of(SHAPE, precision, section)
    layout = replace(parallel_layout(recipe, ranks, TOKENS, SCORED, MICRO_BATCHES), on_cpu=True)
    estimate = max_memory(recipe.model, layout)
    return {
        "layout": f"{layout.describe()}, {precision}",
        "measured_bytes": max(held),
        "all_ranks": held,
        "estimated_bytes": round(estimate.peak),
        "estimate": vars(estimate),
        "ratio": estimate.peak / max(held),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, help=f"number of one layout, 0 to {len(LAYOUTS) - 1}")
    parser.add_argument("--json", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.json:
        print(json.dumps(measure(arguments.only)))
        return
    found = []
    for which in range(len(LAYOUTS)) if arguments.only is None else [arguments.only]:
        print(f"{LAYOUTS[which]} ...", file=sys.stderr, flush=True)
        settings = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-W", "ignore", __file__, "--json", "--only", str(which)]
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-2000:])
        found.append(json.loads(done.stdout.splitlines()[-1]))
    rows = [
        [
            each["layout"],
            f"{each['estimated_bytes'] / 1e6:,.0f}",
            f"{each['measured_bytes'] / 1e6:,.0f}",
            f"{each['ratio']:.3f}",
        ]
        for each in found
    ]
    print(table(["layout", "estimated, MB", "measured, MB", "ratio"], rows, [False, True, True, True]))
    if arguments.only is None:
        setting = {"model": SHAPE, "micro_tokens": TOKENS, "scored": SCORED, "micro_batches": MICRO_BATCHES}
        save("memory", {"machine": machine("torch", "megatron-core"), **setting, "layouts": found})


if __name__ == "__main__":
    main()
