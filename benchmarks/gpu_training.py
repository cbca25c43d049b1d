"""Steps of the trainer itself on a GPU: their speed, where their time goes, and what they learn in each precision."""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from gpu_packs import packed, samples_of_pack
from gpu_scale import RATIOS, Scale

from megatron_mmbert import parallel
from megatron_mmbert.config.phase import Phase
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.kernels import fp8
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.flops import training_flops
from megatron_mmbert.model.init import initialize
from megatron_mmbert.model.layers import engines_of
from megatron_mmbert.train.step import Training, build_training, training_step

ALL_LINEARS = ["qkv", "proj", "fc1", "fc2"]
_WEIGHTS: dict[Any, list[torch.Tensor]] = {}


def throughput(
    scale: Scale,
    shape: str,
    length: int,
    full: bool = True,
    times: int = 1,
    dropout: float = 0.0,
    **precision: Any,
) -> Any:
    """Tokens/s of whole steps (forward, backward, update).

    Args:
        full: samples all of ``length`` tokens, else of documents' lengths.
        times: how many of the scale's packs one micro batch holds.
        dropout: on the attention's output; the recipe's is 0.1.
        precision: of the recipe.
    """
    recipe = recipe_of(scale, shape, length, scale.pack_tokens * times, precision, dropout)
    packs = [
        pack_of(scale, shape, length, number, full, scale.pack_tokens * times) for number in range(scale.micro_batches)
    ]
    tokens = sum(pack.real_tokens for pack in packs)
    with trained(recipe) as (training, phase):
        seconds = [_seconds(training, packs, phase) for _ in range(scale.warm_up + scale.steps)][scale.warm_up :]
        return {
            "tokens_per_s": tokens / statistics.median(seconds),
            "tokens_per_s_of_each_step": [tokens / each for each in seconds],
            "tflops": _flops(scale, shape, packs) / statistics.median(seconds) / 1e12,
            "tokens_of_a_pack": packs[0].real_tokens,
            "samples_of_a_pack": [len(pack.cu_seqlens) - 1 for pack in packs],
            "attention": engines_of(training.encoders[0]),
            "linears": training.linear_layers,
            "peak_gib": _peak_gib(),
        }


def profile(scale: Scale, shape: str, length: int) -> Any:
    """The twenty kernels that take most of a step."""
    recipe = recipe_of(scale, shape, length, scale.pack_tokens, {})
    packs = [pack_of(scale, shape, length, 0, True, scale.pack_tokens)]
    with trained(recipe) as (training, phase):
        for _ in range(scale.warm_up):
            _seconds(training, packs, phase)
        kinds = [torch.profiler.ProfilerActivity.CPU, *([] if scale.smoke else [torch.profiler.ProfilerActivity.CUDA])]
        with torch.profiler.profile(activities=kinds) as profiler:
            _seconds(training, packs, phase)
    wanted = torch.autograd.DeviceType.CPU if scale.smoke else torch.autograd.DeviceType.CUDA
    averages = [each for each in profiler.key_averages() if each.device_type == wanted]
    spent = {each.key: each.self_cpu_time_total if scale.smoke else each.self_device_time_total for each in averages}
    total = sum(spent.values()) or 1.0
    top = sorted(spent, key=lambda key: -spent[key])[:20]
    return {
        "ms": total / 1e3,
        "kernels": [{"name": k[:120], "ms": spent[k] / 1e3, "share": spent[k] / total} for k in top],
    }


def losses(scale: Scale, shape: str, share: float = 1.0, **precision: Any) -> Any:
    """Loss per scored token over some hundred steps of one pack each; the same packs and initial weights every time.

    Args:
        share: of the scale's steps.
    """
    length, tokens = 1024, scale.learning_tokens
    recipe = recipe_of(scale, shape, length, tokens, precision)
    found = []
    with trained(recipe) as (training, phase):
        for step in range(round(scale.learning_steps * share)):
            pack = pack_of(scale, shape, length, step, False, tokens)
            lr = phase.lr * min(1.0, (step + 1) / 20)
            found.append(training_step(training, [pack], lr, phase, 0.0, recipe.seed))
        linears, attention = training.linear_layers, engines_of(training.encoders[0])
    last = found[-max(1, len(found) // 6) :]
    mean = sum(last) / len(last)
    return {"losses": found, "mean_of_last": mean, "steps": len(found), "linears": linears, "attention": attention}


@contextmanager
def trained(recipe: Recipe) -> Iterator[tuple[Training, Phase]]:
    """A model with fresh weights and its optimizer; its memory is given back at the end."""
    parallel.enable_cpu_mode()
    parallel.start(seed=1)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    training = build_training(recipe, recipe.phases[0], initialize_once)
    try:
        yield training, recipe.phases[0]
    finally:
        for chunk in training.wrapped:
            chunk.zero_grad_buffer()
        del training
        gc.collect()
        fp8.forget()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


@torch.no_grad()
def initialize_once(encoder: Encoder, seed: int) -> None:
    """Set the weights that ``initialize`` draws, which takes seconds for base: once a process; the host keeps them."""
    shapes = tuple((name, tuple(tensor.shape), tensor.dtype) for name, tensor in encoder.named_parameters())
    kept = _WEIGHTS.get((shapes, seed))
    if kept is None:
        initialize(encoder, seed)
        _WEIGHTS[shapes, seed] = [tensor.detach().to("cpu", copy=True) for tensor in encoder.parameters()]
        return
    for tensor, weights in zip(encoder.parameters(), kept, strict=True):
        tensor.copy_(weights)


def recipe_of(
    scale: Scale, shape: str, length: int, tokens: int, precision: dict[str, Any], dropout: float = 0.0
) -> Recipe:
    """A recipe of one phase without data, micro batches of ``tokens``."""
    phase = {
        "name": "benchmark",
        "tokens": 10**9,
        "mask_ratio": RATIOS[length],
        "max_length": scale.length(length),
        "lr": 5e-4,
        "batch": {"tokens_per_step": tokens, "tokens_per_micro_batch": tokens},
    }
    return Recipe.model_validate(
        {
            "name": "gpu",
            "model": scale.model(shape).model_dump() | {"attention_output_dropout": dropout},
            "tokenizer": {"path": "none"},
            "data": {"stores": ["none"]},
            "phases": [phase],
            "precision": {**scale.precision, **precision},
        }
    )


def pack_of(scale: Scale, shape: str, length: int, number: int, full: bool, tokens: int) -> PackedBatch:
    """Pack ``number`` of the benchmark's, pinned where there is a GPU."""
    ratio = RATIOS[length]
    samples = samples_of_pack(number, tokens, scale.length(length), scale.model(shape).vocab_size, ratio, full)
    batch = packed(samples, number, round(ratio * tokens))
    return batch.pin_memory() if torch.cuda.is_available() else batch


def _seconds(training: Training, packs: list[PackedBatch], phase: Phase) -> float:
    """Of one step, which ends with the loss on the host."""
    start = time.perf_counter()
    loss = training_step(training, packs, phase.lr / 10, phase, 0.0, 1)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    if not np.isfinite(loss):
        raise RuntimeError(f"the loss is {loss}")
    return seconds


def _flops(scale: Scale, shape: str, packs: list[PackedBatch]) -> float:
    model = scale.model(shape)
    return sum(training_flops(model, pack.cu_seqlens.diff().tolist(), len(pack.label_K)) for pack in packs)


def _peak_gib() -> float | None:
    return torch.cuda.max_memory_allocated() / 2**30 if torch.cuda.is_available() else None
