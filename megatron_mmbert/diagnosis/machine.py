"""A diagnosis of this machine: what it can run, how fast, and what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable, Iterator

import torch

from megatron_mmbert import parallel
from megatron_mmbert.attention import AUTO, ENGINES, Engine, Request, choose
from megatron_mmbert.attention.selection import Trial, fastest, try_engine
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.kernels import bandwidth, fp8, fp32_matmul
from megatron_mmbert.kernels.matmul_peak import measured_tflops
from megatron_mmbert.utils.text_table import table

HEAD_WIDTH = 64
WINDOW = 64
TOKENS = {"cpu": 2048, "cuda": 65_536}
EAGER_TOKENS = 2048  # the reference is quadratic in the pack
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PACKAGES = {
    "torch": "",
    "megatron-core": "pip install megatron-core==0.16.1",
    "transformers": "pip install 'megatron-mmbert[hf]'",
    "transformer-engine": ENGINES["te"].install_hint,
    "flash-attn": ENGINES["flash"].install_hint,
}
_WAYS = ("host to GPU", "GPU to host")


def diagnose(heads: int, length: int, dtype_name: str | None = None, tokens: int | None = None) -> Iterator[str]:
    """Measure this machine, and yield the parts of the report one after the other, each when it is known.

    On the ranks that ``torchrun`` started but the first, nothing is yielded.

    Args:
        heads: attention heads of the layers that are tried.
        length: tokens of each sample.
        dtype_name: of ``DTYPES``; bf16 on a GPU, else fp32, when None.
        tokens: of the pack that is tried; ``TOKENS`` when None.
    """
    fp32_matmul.use_fastest()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype_name = dtype_name or ("bf16" if device == "cuda" else "fp32")
    tokens = tokens or TOKENS[device]
    exchange = exchange_line()
    if exchange is None:
        return
    yield "\n".join(machine_lines(device))
    yield _section("ceilings", [*ceiling_lines(device), exchange])
    for window, kind in ((WINDOW, "local"), (None, "global")):
        for backward in (True, False):
            request = Request(device, DTYPES[dtype_name], HEAD_WIDTH, window, backward)
            title = f"{kind} attention, {'training' if backward else 'inference'}, {dtype_name}"
            yield f"{title}\n{engine_table(request, heads, length, tokens)}"
    model = ModelConfig(hidden_size=heads * HEAD_WIDTH, num_attention_heads=heads)
    title = f"FP8: a layer's linear layers forward and backward over {tokens:,} tokens; more than 1 is a gain over bf16"
    yield _section(title, fp8_lines(model, tokens))
    missing = [f"{name}: {install_hint}" for name, install_hint in missing_packages()]
    yield _section("missing, and what brings it", missing) if missing else "nothing is missing"


def _section(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)])


def machine_lines(device: str) -> list[str]:
    """Return versions and devices, one a line."""
    versions = [f"{name} {_version(name) or 'missing'}" for name in PACKAGES]
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, fp32 products by {fp32_matmul.backend()}"
    lines = [f"python {platform.python_version()}, {', '.join(versions)}", f"cpu: {platform.machine()}, {threads}"]
    if device == "cuda":
        properties = torch.cuda.get_device_properties(0)
        memory = properties.total_memory / 2**30
        capability = f"{properties.major}.{properties.minor}"
        lines.append(f"gpu: {torch.cuda.device_count()} x {properties.name}, {memory:.0f} GiB, capability {capability}")
    else:
        lines.append("gpu: none that PyTorch can use")
    return lines


def ceiling_lines(device: str) -> list[str]:
    """The best rates of plain operations: what a training step is a share of."""
    place = torch.device(device)
    lines = [f"matrix product {name}: {measured_tflops(place, dtype):.3f} TFLOP/s" for name, dtype in DTYPES.items()]
    lines.append(f"host memory, copied: {bandwidth.copied(torch.device('cpu')):.1f} GB/s read and written")
    if device == "cuda":
        lines.append(f"GPU memory, copied: {bandwidth.copied(place):.1f} GB/s read and written")
        lines += [f"{way}: {bandwidth.transferred(way == 'host to GPU'):.1f} GB/s" for way in _WAYS]
    return lines


def exchange_line() -> str | None:
    """Measure the bandwidth of a sum over the ranks that ``torchrun`` started; None on all ranks but the first.

    Leaves the process group again: the rest of a diagnosis is one process's.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return (
            "sum over ranks: not measured, as there is one; torchrun --nproc-per-node N -m megatron_mmbert doctor does"
        )
    with parallel.process_group() as runtime:
        rate = bandwidth.all_reduced(runtime.device)
    kind = "NCCL" if runtime.device.type == "cuda" else "gloo"
    return f"sum over {runtime.world_size} ranks ({kind}): {rate:.2f} GB/s of bus" if runtime.is_main else None


def engine_table(request: Request, heads: int, length: int, tokens: int) -> str:
    """Try every engine on one kind of layer, over a pack of ``tokens``; the one that ``auto`` takes is marked."""
    trials = [_try(engine, request, heads, length, tokens) for engine in ENGINES.values()]
    candidates = [each for each in trials if each.engine != "eager"]
    if request.device == "cpu":
        chosen = choose(AUTO, request, heads).name
    else:
        chosen = fastest(candidates).engine if any(each.usable for each in candidates) else ""
    rows = []
    for trial in trials:
        mark = "*" if trial.engine == chosen else ""
        speed = "" if trial.milliseconds is None else f"{trial.milliseconds:.1f}"
        error = "" if trial.error is None else f"{trial.error:.0e}"
        rows.append([mark, trial.engine, error, speed, trial.unsupported_reason or "correct"])
    header = ["", "engine", "error", f"ms for {tokens:,} tokens", "result"]
    return table(header, rows, [False, False, True, True, False])


def _try(engine: Engine, request: Request, heads: int, length: int, tokens: int) -> Trial:
    if engine.name == "eager" and tokens > EAGER_TOKENS:
        return Trial(engine.name, None, 0.0)
    lengths = [min(length, tokens)] * max(1, tokens // length)
    return try_engine(engine, request, heads, lengths, repeats=2)


def fp8_lines(model: ModelConfig, tokens: int) -> list[str]:
    """Return for each scaling how many times as fast each linear layer is in FP8, by trial; or why it cannot run."""
    lines = []
    for scaling in fp8.SCALINGS:
        reason = fp8.fp8_unsupported_reason(scaling)
        if reason is None:
            try:
                gains = fp8.probe(model, tokens, scaling)
                lines.append(f"{scaling}: {', '.join(map(str, gains))}")
                continue
            except (AssertionError, RuntimeError) as problem:
                reason = f"fails: {(str(problem).splitlines() or [''])[0]}"
        lines.append(f"{scaling}: cannot run here ({reason})")
    return lines


def missing_packages() -> Iterable[tuple[str, str]]:
    """Yield (a package that is not there, the command that brings it)."""
    for name, install_hint in PACKAGES.items():
        if _version(name) is None:
            yield name, install_hint
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        yield "a C++ compiler (FlexAttention on a CPU)", ENGINES["flex"].install_hint


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
