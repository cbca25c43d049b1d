"""Measure what this machine can run, how fast, and say what is missing.

Versions and devices; the matrix-product ceiling and bandwidths; every attention engine's correctness against the
reference and its speed at the model's shapes, for local and global layers, training and inference; whether FP8 pays,
linear layer by linear layer; and for what is missing the command that brings it. About a minute on a CPU. Started by
torchrun, it measures the bandwidth of a sum over ranks too.
"""

from __future__ import annotations

import argparse

from megatron_mmbert.commands.arguments import Whole
from megatron_mmbert.utils.bounds import MAX_LENGTH, MAX_PACK_TOKENS

EXAMPLES = """
mmbert doctor
mmbert doctor --shape base --length 8192 --dtype bf16
torchrun --nproc-per-node 2 -m megatron_mmbert doctor
"""
HEADS = {"small": 6, "base": 12}
"""Attention heads of the sizes of mmBERT."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("--shape", choices=tuple(HEADS), default="small", help="mmBERT size whose heads are tried")
    length, tokens = Whole(1, MAX_LENGTH), Whole(1, MAX_PACK_TOKENS)
    parser.add_argument("--length", type=length, default=1024, metavar="N", help="tokens of each sample (1024)")
    parser.add_argument(
        "--tokens", type=tokens, metavar="T", help="of the pack tried (65,536 on a GPU, 2,048 on a CPU)"
    )
    parser.add_argument("--dtype", choices=("fp32", "bf16"), help="bf16 on a GPU, else fp32, by default")


def run(arguments: argparse.Namespace) -> None:
    """Print the diagnosis, part by part."""
    from megatron_mmbert.diagnosis.machine import diagnose

    heads = HEADS[arguments.shape]
    for number, part in enumerate(diagnose(heads, arguments.length, arguments.dtype, arguments.tokens)):
        print(part if number == 0 else f"\n{part}", flush=True)
