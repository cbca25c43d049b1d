"""Where a training step's time goes, and what local layers cost per token at both lengths.

    OMP_NUM_THREADS=2 python benchmarks/step_parts.py --shape small          # 4 minutes
    OMP_NUM_THREADS=2 python benchmarks/step_parts.py --shape base4          # 3 minutes

One pack of full-length samples, forward and backward, fp32: PyTorch's profile of that very step, its operations put
together by name and by whether they work on the vocabulary. Steps and the products of the ceiling take turns, and so do
local layers at both lengths, so that what else the machine does slows all alike; means count. The ceiling is what plain
``torch.mm`` reaches at the same shapes in the same run; FLOPs are counted by ``megatron_mmbert/model/flops.py``. Writes
docs/results/step_parts-SHAPE.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from mlm_models import SHAPES, THETA
from mm_ceiling import ceiling_work
from results import machine, save
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from megatron_mmbert import parallel
from megatron_mmbert.attention import AUTO, Request, choose
from megatron_mmbert.attention.selection import sequence_layout
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.kernels import fp32_matmul
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.packed_sequences import PackedSequences
from megatron_mmbert.model.rope import cos_sin
from megatron_mmbert.optim.stable_adamw import StableAdamW
from megatron_mmbert.utils.errors import run_command
from megatron_mmbert.utils.text_table import table

PACKS = {1024: (4096, 0.30), 8192: (8192, 0.15)}
"""Length -> (tokens of a pack, mask ratio)."""
PRODUCTS = {"aten::mm", "aten::addmm", "aten::addmm_", "aten::addmv_"}
GROUPS = {
    "attention, local: products and softmax": {
        *("aten::bmm", "aten::baddbmm", "aten::baddbmm_", "aten::_softmax", "aten::_softmax_backward_data")
    },
    "GELU": {"aten::gelu", "aten::gelu_backward"},
    "norms": {"aten::native_layer_norm", "aten::native_layer_norm_backward"},
    "gate, rotation, residual sums, copies": {
        *("aten::mul", "aten::mul_", "aten::add", "aten::add_", "aten::addcmul_", "aten::copy_", "aten::fill_")
    },
}
REST = "rest: embedding, gradients' sums, Python"


def main() -> None:
    args = _arguments()
    parallel.enable_cpu_mode()
    parallel.start(seed=1)
    model = SHAPES[args.shape]
    figures: dict[str, Any] = {"machine": machine("torch"), "threads": torch.get_num_threads(), "shape": args.shape}
    figures["fp32_products"] = fp32_matmul.backend()
    encoder = Encoder(encoder_config(model, THETA, THETA), model.vocab_size).train()
    initialize(encoder, 1)
    for length, (tokens, ratio) in PACKS.items():
        figures[str(length)] = _one_length(encoder, model, length, tokens, round(ratio * tokens), args.rounds)
    local = {length: _local_attention(model, length, tokens) for length, (tokens, _) in PACKS.items()}
    seconds = _in_turn(local, 5 * args.rounds)
    costs = {str(length): 1e6 * seconds[length] / tokens for length, (tokens, _) in PACKS.items()}
    figures["local_us_per_token"] = costs
    figures["local_cost_at_8192_over_1024"] = ratio = costs["8192"] / costs["1024"]
    figures["optimizer_ms"] = 1e3 * _in_turn({0: StableAdamW(encoder.parameters(), 1e-4).step}, args.rounds)[0]
    print(f"\na local layer's attention costs {ratio:.2f} times as much per token at 8192 as at 1024")
    print(f"optimizer: {figures['optimizer_ms']:.0f} ms a step of any size")
    if args.shape != "tiny":
        print(f"wrote {save(f'step_parts-{args.shape}', figures)}")


def _one_length(
    encoder: Encoder, model: ModelConfig, length: int, tokens: int, rows: int, rounds: int
) -> dict[str, Any]:
    step = _step(encoder, model, length, tokens, rows)
    products: list[dict[str, float]] = []
    works = {"step": step, "products": lambda: products.append(ceiling_work(model, tokens, rows))}
    whole = _in_turn(works, rounds)["step"]
    gflops = training_flops(model, [length] * (tokens // length), rows) / whole / 1e9
    ceiling = sum(each["gflops"] for each in products[1:]) / sum(each["seconds"] for each in products[1:])
    shares = _shares(step, model.vocab_size)
    print(f"\n{tokens} tokens in samples of {length}: {1e3 * whole:.0f} ms, {tokens / whole:.0f} tokens/s")
    print(table(["part", "share"], [[name, f"{share:.1%}"] for name, share in shares.items()], [False, True]))
    print(f"{gflops:.0f} GFLOP/s, {gflops / ceiling:.0%} of the {ceiling:.0f} that torch.mm reaches at these shapes")
    return {
        "step_ms": 1e3 * whole,
        "shares": shares,
        "gflops": gflops,
        "ceiling_gflops": ceiling,
        "share_of_ceiling": gflops / ceiling,
    }


def _shares(step: Callable[[], object], vocab_size: int) -> dict[str, float]:
    """Of the profiled time of one step, by group of operations."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiled:
        step()
    times: dict[str, float] = {}
    for operation in profiled.key_averages(group_by_input_shape=True):
        group = _group(operation.key, str(vocab_size) in str(operation.input_shapes))
        times[group] = times.get(group, 0.0) + operation.self_cpu_time_total
    total = sum(times.values())
    return {name: times[name] / total for name in sorted(times, key=lambda name: (name == REST, -times[name]))}


def _group(operation: str, on_vocabulary: bool) -> str:
    if operation in PRODUCTS:
        return "head: products" if on_vocabulary else "linears: products"
    if on_vocabulary:
        return "head: softmax"
    if "flash_attention" in operation:
        return "attention, global: PyTorch's flash kernel"
    return next((name for name, operations in GROUPS.items() if operation in operations), REST)


Name = TypeVar("Name")


def _in_turn(works: dict[Name, Callable[[], object]], rounds: int) -> dict[Name, float]:
    """Mean seconds of each over ``rounds`` rounds, after one to warm up."""
    seconds = dict.fromkeys(works, 0.0)
    for number in range(rounds + 1):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            seconds[name] += (time.perf_counter() - start) if number else 0.0
    return {name: total / rounds for name, total in seconds.items()}


def _step(encoder: Encoder, model: ModelConfig, length: int, tokens: int, rows: int) -> Callable[[], None]:
    ids = torch.randint(5, model.vocab_size, (tokens,))
    scored = torch.randperm(tokens)[:rows].sort().values
    layout = sequence_layout([length] * (tokens // length), "cpu")

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(ids, PackedSequences.of(layout.cu_seqlens, length), scored, ids[scored]).backward()

    return step


def _local_attention(model: ModelConfig, length: int, tokens: int) -> Callable[[], object]:
    """Forward and backward of one local layer's attention, rotation included."""
    window = model.window_each_side
    engine = choose(AUTO, Request("cpu", torch.float32, model.head_dim, window, True), model.num_attention_heads)
    layout = sequence_layout([length] * (tokens // length), "cpu")
    tables = cos_sin(torch.arange(tokens) % length, THETA, model.head_dim)
    qkv_TH3D = torch.randn(tokens, model.num_attention_heads, 3, model.head_dim, requires_grad=True)
    direction = torch.randn(tokens, model.num_attention_heads, model.head_dim)
    assert engine.fused is not None
    fused = engine.fused

    def work() -> tuple[Tensor, ...]:
        return torch.autograd.grad(fused(qkv_TH3D, tables, layout, window, None), qkv_TH3D, direction)

    return work


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--rounds", type=int, default=2, help="timed passes of each (2)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
