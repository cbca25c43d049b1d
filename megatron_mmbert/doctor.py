"""What this machine can run, how fast, and what is missing.

    python -m megatron_mmbert.doctor                 # the shapes of mmBERT-small; about a minute on a CPU
    python -m megatron_mmbert.doctor --shape base --length 8192 --dtype bf16
    torchrun --nproc-per-node 2 -m megatron_mmbert.doctor    # the bandwidth of a sum over ranks too

Versions and devices; the matrix-product ceiling and bandwidths; every attention engine's correctness against the
reference and its speed at the model's shapes, for local and global layers, training and inference; whether FP8 pays,
linear by linear; and for what is missing the command that brings it.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import platform
import shutil
from collections.abc import Iterable

import torch

from megatron_mmbert import parallel
from megatron_mmbert.attention import AUTO, ENGINES, Engine, Request, choose
from megatron_mmbert.attention.selection import Trial, fastest, try_engine
from megatron_mmbert.config.recipe import ModelConfig
from megatron_mmbert.kernels import bandwidth, fp8, fp32_matmul
from megatron_mmbert.kernels.matmul_peak import measured_tflops
from megatron_mmbert.utils.errors import run_command
from megatron_mmbert.utils.text_table import table

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
    "transformer-engine": ENGINES["te"].install_hint,
    "flash-attn": ENGINES["flash"].install_hint,
}
_NAME = "megatron_mmbert.doctor"
_WAYS = ("host to GPU", "GPU to host")


def main() -> None:
    arguments = _arguments()
    fp32_matmul.use_fastest()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    default = "bf16" if device == "cuda" else "fp32"
    dtype = DTYPES[arguments.dtype or default]
    tokens = arguments.tokens or TOKENS[device]
    exchange = exchange_line()
    if exchange is None:
        return
    print("\n".join(machine_lines(device)))
    print("\nceilings")
    print("\n".join(f"  {line}" for line in [*ceiling_lines(device), exchange]))
    missing = dict(missing_packages())
    for window, kind in ((WINDOW, "local"), (None, "global")):
        for backward in (True, False):
            request = Request(device, dtype, HEAD_WIDTH, window, backward)
            print(f"\n{kind} attention, {'training' if backward else 'inference'}, {arguments.dtype or default}")
            print(engine_table(request, HEADS[arguments.shape], arguments.length, tokens), flush=True)
    model = ModelConfig(hidden_size=HEADS[arguments.shape] * HEAD_WIDTH, num_attention_heads=HEADS[arguments.shape])
    print(f"\nFP8: a layer's linears forward and backward over {tokens:,} tokens; more than 1 is a gain over bf16")
    print("\n".join(f"  {line}" for line in fp8_lines(model, tokens)))
    print("\nmissing, and what brings it" if missing else "\nnothing is missing")
    print("\n".join(f"  {name}: {install_hint}" for name, install_hint in missing.items()))


def machine_lines(device: str) -> list[str]:
    """Versions and devices, one a line."""
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
    """The bandwidth of a sum over the ranks that ``torchrun`` started; None on all ranks but the first.

    Leaves the parallel world again: the rest of a diagnosis is one process's.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return "sum over ranks: not measured, as there is one; start with torchrun --nproc-per-node N -m " + _NAME
    parallel.enable_cpu_mode()
    runtime = parallel.start()
    rate = bandwidth.all_reduced(runtime.device)
    parallel.shutdown()
    kind = "NCCL" if runtime.device.type == "cuda" else "gloo"
    return f"sum over {runtime.world_size} ranks ({kind}): {rate:.2f} GB/s of bus" if runtime.is_main else None


def engine_table(request: Request, heads: int, length: int, tokens: int) -> str:
    """Every engine's verdict on one kind of layer, over a pack of ``tokens``; what ``auto`` takes is marked."""
    verdicts = [_try(engine, request, heads, length, tokens) for engine in ENGINES.values()]
    candidates = [each for each in verdicts if each.engine != "eager"]
    chosen = choose(AUTO, request, heads).name if request.device == "cpu" else fastest(candidates).engine
    rows = []
    for verdict in verdicts:
        mark = "*" if verdict.engine == chosen else ""
        speed = "" if verdict.milliseconds is None else f"{verdict.milliseconds:.1f}"
        error = "" if verdict.error is None else f"{verdict.error:.0e}"
        rows.append([mark, verdict.engine, error, speed, verdict.unsupported_reason or "correct"])
    header = ["", "engine", "error", f"ms for {tokens:,} tokens", "verdict"]
    return table(header, rows, [False, False, True, True, False])


def _try(engine: Engine, request: Request, heads: int, length: int, tokens: int) -> Trial:
    if engine.name == "eager" and tokens > EAGER_TOKENS:
        return Trial(engine.name, None, 0.0)
    lengths = [min(length, tokens)] * max(1, tokens // length)
    return try_engine(engine, request, heads, lengths, repeats=2)


def fp8_lines(model: ModelConfig, tokens: int) -> list[str]:
    """For each scaling, how many times as fast each linear of a layer is in FP8, by trial; or why it cannot run."""
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
    """(what is not there, the command that brings it)."""
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
