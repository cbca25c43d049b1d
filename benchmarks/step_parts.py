"""Where a training step's time goes, and what local and global layers cost per token at both lengths.

    OMP_NUM_THREADS=2 python benchmarks/step_parts.py --shape small          # 4 minutes
    OMP_NUM_THREADS=2 python benchmarks/step_parts.py --shape base4          # 3 minutes

One pack of full-length samples, forward and backward, fp32. Each part is run alone with the model's own code at the
model's shapes, and multiplied by how often the step runs it (behind the last layer's attention for scored rows alone);
*rest* is what the parts leave of the whole. The step, its parts and the products of the ceiling take turns, and so do
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
from mm_ceiling import ceiling_gflops
from results import machine, save
from torch import Tensor

from megatron_mmbert import parallel
from megatron_mmbert.attention import AUTO, Request, choose
from megatron_mmbert.attention.selection import layout_of
from megatron_mmbert.config.recipe import ModelConfig
from megatron_mmbert.errors import run_command
from megatron_mmbert.kernels.geglu import geglu
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.loss import chunked_cross_entropy
from megatron_mmbert.model.packed import PackedParams
from megatron_mmbert.model.rope import cos_sin
from megatron_mmbert.optim.stable_adamw import StableAdamW
from megatron_mmbert.report.text_table import table

PACKS = {1024: (4096, 0.30), 8192: (8192, 0.15)}
"""Length -> (tokens of a pack, mask ratio)."""


def main() -> None:
    args = _arguments()
    parallel.start(seed=1)
    model = SHAPES[args.shape]
    figures: dict[str, Any] = {"machine": machine("torch"), "threads": torch.get_num_threads(), "shape": args.shape}
    encoder = Encoder(encoder_config(model, THETA, THETA), model.vocab_size).train()
    initialize(encoder, 1)
    for length, (tokens, ratio) in PACKS.items():
        figures[str(length)] = _one_length(encoder, model, length, tokens, round(ratio * tokens), args.rounds)
    local = {length: _attention(model, model.window_each_side, length, tokens) for length, (tokens, _) in PACKS.items()}
    seconds = _in_turn(local, 5 * args.rounds)
    costs = {str(length): 1e6 * seconds[length] / tokens for length, (tokens, _) in PACKS.items()}
    figures["optimizer_ms"] = 1e3 * _in_turn({0: StableAdamW(encoder.parameters(), 1e-4).step}, args.rounds)[0]
    figures["local_us_per_token"] = costs
    figures["local_cost_at_8192_over_1024"] = costs["8192"] / costs["1024"]
    print(f"\noptimizer: {figures['optimizer_ms']:.0f} ms a step of any size")
    ratio = figures["local_cost_at_8192_over_1024"]
    print(f"a local layer's attention costs {ratio:.2f} times as much per token at 8192 as at 1024")
    if args.shape != "tiny":
        print(f"wrote {save(f'step_parts-{args.shape}', figures)}")


def _one_length(
    encoder: Encoder, model: ModelConfig, length: int, tokens: int, rows: int, rounds: int
) -> dict[str, Any]:
    share, ceilings = rows / tokens, list[float]()
    globals_ = sum(model.is_global(layer) for layer in range(model.num_layers))
    ends_globally = model.is_global(model.num_layers - 1)
    mlp = 3 * model.ffn_hidden_size / (4 * model.hidden_size + 3 * model.ffn_hidden_size)
    times = {
        "linears": model.num_layers - mlp * (1 - share),
        "attention, local": model.num_layers - globals_,
        "attention, global": globals_ - (1 - share if ends_globally else 0),
        "GeGLU": model.num_layers - 1 + share,
        "norms": 2 * model.num_layers - 1 + share,
        "head": 1,
    }
    seconds = _in_turn(
        {
            "step": _step(encoder, model, length, tokens, rows),
            "linears": _linears(model, tokens),
            "attention, local": _attention(model, model.window_each_side, length, tokens),
            "attention, global": _attention(model, None, length, tokens),
            "GeGLU": _gradients_of(geglu, torch.randn(tokens, 2 * model.ffn_hidden_size)),
            "norms": _norm(model, tokens),
            "head": _head(encoder, model, rows),
            "ceiling": lambda: ceilings.append(ceiling_gflops(model, tokens, rows, repeats=1)),
        },
        rounds,
    )
    whole = seconds["step"]
    parts = {name: times[name] * seconds[name] for name in times}
    parts["rest"] = whole - sum(parts.values())
    gflops = training_flops(model, [length] * (tokens // length), rows) / whole / 1e9
    ceiling = sum(ceilings[1:]) / len(ceilings[1:])
    print(f"\n{tokens} tokens in samples of {length}: {1e3 * whole:.0f} ms, {tokens / whole:.0f} tokens/s")
    body = [[name, f"{1e3 * value:.0f}", f"{value / whole:.1%}"] for name, value in parts.items()]
    print(table(["part", "ms", "share"], body, [False, True, True]))
    print(f"{gflops:.0f} GFLOP/s, {gflops / ceiling:.0%} of the {ceiling:.0f} that torch.mm reaches at these shapes")
    return {
        "step_ms": 1e3 * whole,
        "parts_ms": {name: 1e3 * value for name, value in parts.items()},
        "gflops": gflops,
        "ceiling_gflops": ceiling,
        "share_of_ceiling": gflops / ceiling,
    }


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
    layout = layout_of([length] * (tokens // length), "cpu")

    def step() -> None:
        encoder.zero_grad(set_to_none=True)
        encoder(ids, PackedParams.of(layout.cu_seqlens, length), scored, ids[scored]).backward()

    return step


def _gradients_of(work: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], object]:
    leaves = [x.requires_grad_() for x in inputs]
    direction = torch.randn_like(work(*leaves))
    return lambda: torch.autograd.grad(work(*leaves), leaves, direction)


def _linears(model: ModelConfig, tokens: int) -> Callable[[], object]:
    width, inner = model.hidden_size, model.ffn_hidden_size
    shapes = [(width, 3 * width), (width, width), (width, 2 * inner), (inner, width)]
    each = [_gradients_of(torch.nn.functional.linear, torch.randn(tokens, k), torch.randn(n, k)) for k, n in shapes]
    return lambda: [work() for work in each]


def _attention(model: ModelConfig, window: int | None, length: int, tokens: int) -> Callable[[], object]:
    engine = choose(AUTO, Request("cpu", torch.float32, model.head_dim, window, True), model.num_attention_heads)
    layout = layout_of([length] * (tokens // length), "cpu")
    tables = cos_sin(torch.arange(tokens) % length, THETA, model.head_dim)
    assert engine.fused is not None
    fused = engine.fused
    qkv_TH3D = torch.randn(tokens, model.num_attention_heads, 3, model.head_dim)
    return _gradients_of(lambda x: fused(x, tables, layout, window, None), qkv_TH3D)


def _norm(model: ModelConfig, tokens: int) -> Callable[[], object]:
    shape = (model.hidden_size,)
    return _gradients_of(
        lambda x, w: torch.nn.functional.layer_norm(x, shape, w), torch.randn(tokens, *shape), torch.ones(shape)
    )


def _head(encoder: Encoder, model: ModelConfig, rows: int) -> Callable[[], object]:
    table_VD = encoder.shared_embedding_or_output_weight().detach()
    bias_V = encoder.output_layer.bias.detach()
    labels = torch.randint(model.vocab_size, (rows,))
    return _gradients_of(
        lambda x, w, b: chunked_cross_entropy(x, w, b, labels)[0],
        *(torch.randn(rows, model.hidden_size), table_VD.clone(), bias_V.clone()),
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--rounds", type=int, default=2, help="timed passes of each part (2)")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
