"""Memory and time of the MLM head at mmBERT-base's width, beside dense logits and cross-entropy; about six minutes.

    python benchmarks/head.py                     # all; writes docs/results/head.json
    python benchmarks/head.py --tokens 1024       # smaller, prints only

768 x 256,000 with bias, 30 % of the tokens scored, forward and backward, gradients of rows, table and bias. Three ways:

- *chunked*: ours, on the scored rows.
- *dense, scored rows*: ``F.linear`` on the scored rows alone, then ``F.cross_entropy``: what a sparse head does that
  does not work in chunks.
- *dense, all rows*: ``F.linear`` on every token, then ``F.cross_entropy`` with ``ignore_index``. In fp32 this needs
  more than 24 GiB at 8,192 tokens, so it is measured in bf16 only.

Each way runs in a process of its own: one pass to warm up, then ``--passes`` (in bf16 one), of which the fastest
counts; dense over all rows runs a single pass. *CPU* adds up the threads, and suffers less from other processes.
*Peak* is the most memory the process held (VmHWM) above what it held once inputs and weights were made; gradients
included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from results import machine, save
from torch import Tensor

from megatron_mmbert.config.base import IGNORED_LABEL
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy
from megatron_mmbert.utils.text_table import table

WIDTH, VOCAB, SCORED = 768, 256_000, 0.3
CASES = [
    ("fp32", "chunked"),
    ("fp32", "dense, scored rows"),
    ("bf16", "chunked"),
    ("bf16", "dense, all rows"),
]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def problem(tokens: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """x_TD, table_VD, bias_V, label_T with exactly 30 % of the rows scored."""
    draw = torch.Generator().manual_seed(0)
    x_TD = torch.randn(tokens, WIDTH, generator=draw).to(dtype)
    table_VD = torch.empty(VOCAB, WIDTH, dtype=dtype)
    for part in table_VD.chunk(64):
        part.copy_(torch.randn(part.shape, generator=draw) * 0.02)
    label_T = torch.full((tokens,), IGNORED_LABEL)
    scored = torch.randperm(tokens, generator=draw)[: round(SCORED * tokens)]
    label_T[scored] = torch.randint(0, VOCAB, (len(scored),), generator=draw)
    return (
        x_TD.requires_grad_(),
        table_VD.requires_grad_(),
        torch.zeros(VOCAB, dtype=dtype, requires_grad=True),
        label_T,
    )


def loss_of(way: str, x_TD: Tensor, table_VD: Tensor, bias_V: Tensor, label_T: Tensor) -> Tensor:
    """The summed loss; intermediate results are referenced by autograd alone."""
    if way == "dense, all rows":
        return F.cross_entropy(F.linear(x_TD, table_VD, bias_V), label_T, ignore_index=IGNORED_LABEL, reduction="sum")
    scored_K = (label_T != IGNORED_LABEL).nonzero().squeeze(1)
    if way == "chunked":
        return chunked_cross_entropy(x_TD[scored_K], table_VD, bias_V, label_T[scored_K])[0]
    return F.cross_entropy(F.linear(x_TD[scored_K], table_VD, bias_V), label_T[scored_K], reduction="sum")


def measure(dtype: str, way: str, tokens: int, passes: int) -> dict[str, Any]:
    """Run one way in this process."""
    inputs = problem(tokens, DTYPES[dtype])
    held = _status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again from here
    best, best_cpu, loss, peak = float("inf"), float("inf"), 0.0, 0
    for number in range(passes + 1):
        started, cpu = time.perf_counter(), time.process_time()
        total = loss_of(way, *inputs)
        total.backward()
        if number or not passes:
            best = min(best, time.perf_counter() - started)
            best_cpu = min(best_cpu, time.process_time() - cpu)
        if not number:
            peak = _status("VmHWM") - held
        loss = total.item() / round(SCORED * tokens)
        norms = [float(each.grad.float().norm()) for each in inputs[:3] if each.grad is not None]
        for each in inputs[:3]:
            each.grad = None
        del total
    return {
        "dtype": dtype,
        "way": way,
        "tokens": tokens,
        "peak_bytes": peak,
        "seconds": best,
        "cpu_seconds": best_cpu,
        "loss": loss,
        "gradient_norms": norms,
    }


def _status(field: str) -> int:
    """A line of /proc/self/status in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))


def in_a_process(dtype: str, way: str, tokens: int, passes: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", f"{dtype}/{way}", "--tokens", str(tokens), "--passes", str(passes)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{dtype}, {way}: ended with status {done.returncode}\n{done.stderr[-500:]}")
    return json.loads(done.stdout)


def print_figures(found: list[dict[str, Any]]) -> None:
    header = ["", "peak, GB", "seconds", "CPU seconds", "loss"]
    rows = [
        [
            f"{each['dtype']}, {each['way']}",
            f"{each['peak_bytes'] / 1e9:.2f}",
            f"{each['seconds']:.1f}",
            f"{each['cpu_seconds']:.1f}",
            f"{each['loss']:.4f}",
        ]
        for each in found
    ]
    print(table(header, rows, [False, True, True, True, True]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192, help="rows of one micro batch (default %(default)s)")
    parser.add_argument("--passes", type=int, default=2, help="timed passes in fp32 (default %(default)s)")
    parser.add_argument("--dtype", choices=DTYPES, help="only this one; prints only")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        dtype, way = arguments.one.split("/")
        print(json.dumps(measure(dtype, way, arguments.tokens, arguments.passes)))
        return
    found = []
    cases = [case for case in CASES if arguments.dtype in (None, case[0])]
    for dtype, way in cases:
        print(f"{dtype}, {way} ...", file=sys.stderr, flush=True)
        passes = 0 if way == "dense, all rows" else arguments.passes if dtype == "fp32" else 1
        found.append(in_a_process(dtype, way, arguments.tokens, passes))
    print_figures(found)
    ratios = {
        dense["way"] + ", " + dense["dtype"]: {
            "peak": ours["peak_bytes"] / dense["peak_bytes"],
            "seconds": ours["seconds"] / dense["seconds"],
            "cpu_seconds": ours["cpu_seconds"] / dense["cpu_seconds"],
        }
        for ours, dense in zip(found[::2], found[1::2], strict=True)
    }
    for name, ratio in ratios.items():
        print(f"chunked over {name}: {ratio['peak']:.3f} of the memory, {ratio['seconds']:.2f} of the time")
    if arguments.tokens == parser.get_default("tokens") and not arguments.dtype:
        figures = {"width": WIDTH, "vocabulary": VOCAB, "scored": SCORED, "threads": torch.get_num_threads()}
        save("head", {"machine": machine("torch"), **figures, "measured": found, "chunked_over_dense": ratios})


if __name__ == "__main__":
    main()
