"""What this machine can run, how fast, and what is missing.

    python -m megatron_mmbert.doctor                 # the shapes of mmBERT-small; about a minute on a CPU
    python -m megatron_mmbert.doctor --shape base --length 8192 --dtype bf16

Versions and devices; the matrix-product ceiling and the memory bandwidth; every attention engine's correctness against
the reference and its speed at the model's shapes, for local and global layers, training and inference; whether FP8
pays; and for what is missing the command that brings it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterable
from importlib.util import find_spec

import torch

from megatron_mmbert.attention import AUTO, ENGINES, Engine, Request, choose
from megatron_mmbert.attention.selection import Verdict, try_engine
from megatron_mmbert.errors import run_command
from megatron_mmbert.parallel.ceiling import measured_tflops
from megatron_mmbert.report.text_table import table

HEADS = {"small": 6, "base": 12}
HEAD_WIDTH = 64
WINDOW = 64
TOKENS = {"cpu": 2048, "cuda": 65_536}
EAGER_TOKENS = 2048  # the reference is quadratic in the pack
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
PACKAGES = {
    "torch": "",
    "megatron-core": "pip install megatron-core==0.16.1",
    "transformers": "pip install 'megatron-mmbert[hf]'",
    "transformer-engine": ENGINES["te"].remedy,
    "flash-attn": ENGINES["flash"].remedy,
}
FP8_REMEDY = "FP8 needs an NVIDIA GPU of compute capability 8.9 or newer and Transformer Engine"


def main() -> None:
    arguments = _arguments()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    default = "bf16" if device == "cuda" else "fp32"
    dtype = DTYPES[arguments.dtype or default]
    print("\n".join(machine_lines(device)))
    print("\nceilings")
    print("\n".join(f"  {line}" for line in ceiling_lines(device)))
    missing = dict(missing_packages())
    for window, kind in ((WINDOW, "local"), (None, "global")):
        for backward in (True, False):
            request = Request(device, dtype, HEAD_WIDTH, window, backward)
            print(f"\n{kind} attention, {'training' if backward else 'inference'}, {arguments.dtype or default}")
            tokens = arguments.tokens or TOKENS[device]
            print(engine_table(request, HEADS[arguments.shape], arguments.length, tokens), flush=True)
    print(f"\nFP8: {fp8_verdict(device)}")
    print("\nmissing, and what brings it" if missing else "\nnothing is missing")
    print("\n".join(f"  {name}: {remedy}" for name, remedy in missing.items()))


def machine_lines(device: str) -> list[str]:
    """Versions and devices, one a line."""
    versions = [f"{name} {_version(name) or 'missing'}" for name in PACKAGES]
    threads = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads"
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
    lines.append(f"memory copy: {copy_gigabytes_per_s(place):.1f} GB/s read and written")
    return lines


def copy_gigabytes_per_s(device: torch.device, repeats: int = 5) -> float:
    """10^9 bytes read and written per second by a copy far larger than any cache of a GPU."""
    source = torch.ones((1 << 30 if device.type == "cuda" else 1 << 26,), dtype=torch.float32, device=device)
    target = torch.empty_like(source)
    return 2 * 4 * source.numel() / _best_seconds(lambda: target.copy_(source), device, repeats) / 1e9


def engine_table(request: Request, heads: int, length: int, tokens: int) -> str:
    """Every engine's verdict on one kind of layer, over a pack of ``tokens``, the chosen one marked."""
    chosen = choose(AUTO, request, heads).name
    rows = []
    for engine in ENGINES.values():
        verdict = _try(engine, request, heads, length, tokens)
        mark = "*" if engine.name == chosen else ""
        speed = "" if verdict.milliseconds is None else f"{verdict.milliseconds:.1f}"
        error = "" if verdict.error is None else f"{verdict.error:.0e}"
        rows.append([mark, engine.name, error, speed, verdict.refusal or "correct"])
    header = ["", "engine", "error", f"ms for {tokens:,} tokens", "verdict"]
    return table(header, rows, [False, False, True, True, False])


def _try(engine: Engine, request: Request, heads: int, length: int, tokens: int) -> Verdict:
    if engine.name == "eager" and tokens > EAGER_TOKENS:
        return Verdict(engine.name, None, 0.0)
    lengths = [min(length, tokens)] * max(1, tokens // length)
    return try_engine(engine, request, heads, lengths, repeats=2)


def fp8_verdict(device: str) -> str:
    """Whether FP8 linears are faster than BF16 ones at mmBERT's widths, by trial. Not yet run on a GPU."""
    if device != "cuda" or find_spec("transformer_engine") is None or torch.cuda.get_device_capability() < (8, 9):
        return f"cannot run here ({FP8_REMEDY})"
    import transformer_engine.pytorch as te

    x = torch.randn(TOKENS["cuda"], 768, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    linear = te.Linear(768, 2304, bias=False, params_dtype=torch.bfloat16)

    def step(enabled: bool) -> None:
        with te.fp8_autocast(enabled=enabled):
            out = linear(x)
        out.sum().backward()

    bf16, fp8 = (_best_seconds(lambda on=on: step(on), x.device) for on in (False, True))  # type: ignore[misc]
    return f"768 to 2304 forward and backward: {1e3 * fp8:.2f} ms, bf16 {1e3 * bf16:.2f} ms, gain {bf16 / fp8:.2f}"


def missing_packages() -> Iterable[tuple[str, str]]:
    """(what is not there, the command that brings it)."""
    for name, remedy in PACKAGES.items():
        if _version(name) is None:
            yield name, remedy
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        yield "a C++ compiler (FlexAttention on a CPU)", ENGINES["flex"].remedy


def _best_seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    return min(seconds[1:])


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m megatron_mmbert.doctor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--shape", choices=tuple(HEADS), default="small", help="mmBERT size whose heads are tried")
    parser.add_argument("--length", type=int, default=1024, metavar="N", help="tokens of each sample (1024)")
    parser.add_argument("--tokens", type=int, metavar="T", help="of the pack tried (65,536 on a GPU, 2,048 on a CPU)")
    parser.add_argument("--dtype", choices=tuple(DTYPES), help="bf16 on a GPU, else fp32, by default")
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
