"""Make a checkpoint ready for longer samples: a larger theta, and the length it declares. Weights stay as they are.

    python tools/extend_context.py RUN/pretrain --max-length 8192 --rope-theta 160000 --output start/

A model needs training at the new length after this; mmBERT gave it 600B tokens.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.checkpoint.discovery import resolve
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.checkpoint.phase_transition import explain, extend, write_transition
from megatron_mmbert.utils.errors import run_command
from megatron_mmbert.utils.files import check_output


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint, or a phase's folder (its newest)")
    parser.add_argument("--max-length", type=int, required=True, metavar="TOKENS")
    parser.add_argument("--rope-theta", type=float, required=True, metavar="THETA")
    parser.add_argument(
        "--rope-theta-local", type=float, metavar="THETA", help="of local layers (default that of the global ones)"
    )
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    check_output(arguments.output, (arguments.checkpoint,), arguments.overwrite)
    path = resolve(arguments.checkpoint)
    before = read_meta(path)
    after = extend(before, arguments.max_length, arguments.rope_theta, arguments.rope_theta_local)
    print("\n".join((f"from {path}", *explain(before, after))))
    write_transition(path, after, arguments.output)
    print(f"wrote {arguments.output}")


if __name__ == "__main__":
    run_command(main)
