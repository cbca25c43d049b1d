"""Make a checkpoint ready for longer samples: a larger theta, and the length it declares. Weights stay as they are.

A model needs training at the new length after this; mmBERT gave it 600B tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import CHECKPOINT_HELP, Real, Whole, add_output
from megatron_mmbert.utils.bounds import MAX_LENGTH, MAX_THETA

EXAMPLES = """
mmbert extend-context RUN/pretrain --max-length 8192 --rope-theta 160000 --output start/
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help=CHECKPOINT_HELP)
    theta, length = Real(1.0, MAX_THETA), Whole(3, MAX_LENGTH)
    parser.add_argument(
        "--max-length", type=length, required=True, metavar="TOKENS", help="length of a sample from now on"
    )
    parser.add_argument("--rope-theta", type=theta, required=True, metavar="THETA", help="of global layers")
    parser.add_argument(
        "--rope-theta-local", type=theta, metavar="THETA", help="of local layers (default that of the global ones)"
    )
    add_output(parser, explanation="checkpoint to write")


def run(arguments: argparse.Namespace) -> None:
    """Write the checkpoint, and say what changed."""
    from megatron_mmbert.checkpoint.discovery import resolve
    from megatron_mmbert.checkpoint.metadata import read_meta
    from megatron_mmbert.checkpoint.phase_transition import explain, extend, write_transition
    from megatron_mmbert.utils.output_kinds import CHECKPOINT
    from megatron_mmbert.utils.outputs import check_output

    check_output(arguments.output, CHECKPOINT, (arguments.checkpoint,), arguments.overwrite)
    path = resolve(arguments.checkpoint)
    before = read_meta(path)
    after = extend(before, arguments.max_length, arguments.rope_theta, arguments.rope_theta_local)
    print("\n".join((f"from {path}", *explain(before, after))))
    # Megatron-Core takes seconds to import: not before the input is known to be good.
    from megatron_mmbert import parallel

    with parallel.process_group():
        write_transition(path, after, arguments.output, arguments.overwrite)
    print(f"wrote {arguments.output}")
