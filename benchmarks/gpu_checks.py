"""What a GPU is and can: versions, ceilings, attention engines at the model's shapes, the head, tests and doctor."""

from __future__ import annotations

import importlib.metadata
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from gpu_scale import RATIOS, Scale
from mm_ceiling import ceiling_work

from megatron_mmbert import parallel
from megatron_mmbert.attention import ENGINES, Request
from megatron_mmbert.attention.selection import try_engine
from megatron_mmbert.kernels import fp8
from megatron_mmbert.kernels.matmul_peak import measured_tflops
from megatron_mmbert.model.memory_saving.chunked_cross_entropy import chunked_cross_entropy

ROOT = Path(__file__).resolve().parents[1]
_SECONDS_TO_STOP = 15.0
# FlexAttention's compiling makes the engines the slowest; they come last.
TESTS = [f"tests/gpu/test_{name}.py" for name in ("kernels", "layers", "encode", "training", "engines")]
PACKAGES = ("torch", "triton", "megatron-core", "transformer-engine", "flash-attn", "transformers", "numpy")


def versions(scale: Scale) -> Any:
    """The GPU, its software, and why FP8 cannot run where it cannot."""
    found: dict[str, Any] = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gib": properties.total_memory / 2**30, "cuda": torch.version.cuda}
        found |= {"capability": f"{properties.major}.{properties.minor}", "cudnn": torch.backends.cudnn.version()}
    refusals = {scaling: fp8.fp8_unsupported_reason(scaling) for scaling in fp8.SCALINGS}
    return {"versions": found, "te_refusal": fp8.te_unsupported_reason(), "fp8_refusals": refusals}


def ceiling(scale: Scale) -> Any:
    """TFLOP/s of the largest plain product, and of all products of a training step at the model's own shapes."""
    device = torch.device(scale.device)
    found = {"square": measured_tflops(device, scale.dtype, seconds=0.2 if scale.smoke else 2.0)}
    for shape in ("base", "small"):
        rows = round(RATIOS[1024] * scale.pack_tokens)
        work = ceiling_work(scale.model(shape), scale.pack_tokens, rows, 3, scale.device, scale.dtype)
        rate = work["gflops"] / work["seconds"]
        found[shape] = rate / 1e3
    return {"tflops": found}


def fp8_gains(scale: Scale, shape: str) -> Any:
    """How much faster each linear of a layer is in FP8, by scaling; where it cannot run, why."""
    found: dict[str, Any] = {}
    for scaling in fp8.SCALINGS:
        reason = fp8.fp8_unsupported_reason(scaling)
        if reason:
            found[scaling] = reason
            continue
        try:
            gains = fp8.probe(scale.model(shape), scale.pack_tokens, scaling)
        except (AssertionError, RuntimeError) as problem:
            found[scaling] = f"fails: {problem}"
            continue
        found[scaling] = {each.linear: [each.bf16_ms, each.fp8_ms, each.gain] for each in gains}
    return found


def engines(scale: Scale, shape: str, length: int, local: bool) -> Any:
    """Every engine on one kind of layer: its error against fp64, and milliseconds forward and backward over a pack."""
    parallel.enable_cpu_mode()
    parallel.start(seed=1)
    model = scale.model(shape)
    window = model.window_each_side if local else None
    request = Request(scale.device, scale.dtype, model.head_dim, window, backward=True)
    lengths = [scale.length(length)] * (scale.pack_tokens // scale.length(length))
    found = {}
    for engine in ENGINES.values():
        if engine.name == "eager":
            continue  # quadratic in the pack
        verdict = try_engine(engine, request, model.num_attention_heads, lengths, repeats=5)
        found[engine.name] = {"error": verdict.error, "ms": verdict.milliseconds, "refusal": verdict.unsupported_reason}
    return found


def head(scale: Scale, shape: str) -> Any:
    """Decoder and cross-entropy with gradients over a pack's scored rows, milliseconds by mask ratio."""
    model = scale.model(shape)
    options: dict[str, Any] = {"device": scale.device, "dtype": scale.dtype}
    table_VD = torch.randn(model.vocab_size, model.hidden_size, **options).mul_(0.02).requires_grad_()
    bias_V = torch.zeros(model.vocab_size, **options).requires_grad_()
    found = {}
    for ratio in (0.05, 0.15, 0.30):
        rows = round(ratio * scale.pack_tokens)
        x_KD = torch.randn(rows, model.hidden_size, **options).requires_grad_()
        label_K = torch.randint(model.vocab_size, (rows,), device=scale.device)

        def step(x: torch.Tensor = x_KD, label: torch.Tensor = label_K) -> None:
            torch.autograd.grad(chunked_cross_entropy(x, table_VD, bias_V, label)[0], (x, table_VD, bias_V))

        seconds = _best(step)
        flops = 6 * rows * model.hidden_size * model.vocab_size
        found[f"{ratio:.2f}"] = {"rows": rows, "ms": 1e3 * seconds, "tflops": flops / seconds / 1e12}
    return found


def _best(work: Callable[[], None], repeats: int = 4) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def tests(scale: Scale, seconds: float) -> Any:
    """tests/gpu, in a process of its own."""
    command = [sys.executable, "-m", "pytest", *TESTS, "-rfs", "--tb=short", "-p", "no:cacheprovider"]
    return _command(command, seconds, {"MMBERT_GPU_TESTS_ON_CPU": "1"} if scale.smoke else {})


def doctor(scale: Scale, seconds: float) -> Any:
    """What ``megatron_mmbert.doctor`` says."""
    sizes = ["--length", "64", "--tokens", "256"] if scale.smoke else ["--shape", "base"]
    return _command([sys.executable, "-m", "megatron_mmbert.doctor", *sizes], seconds, {})


def _command(command: list[str], seconds: float, variables: dict[str, str]) -> Any:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "ignore", **variables}
    start = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT, env=environment
    )
    status: int | str
    try:
        text, _ = process.communicate(timeout=seconds)
        status = process.returncode
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)  # pytest then says how far it came
        status = "stopped at its limit"
        try:
            text, _ = process.communicate(timeout=_SECONDS_TO_STOP)
        except subprocess.TimeoutExpired:
            process.kill()
            text, _ = process.communicate()
    return {"status": status, "seconds": time.perf_counter() - start, "output": text[-20_000:].splitlines()}
