"""Write a checkpoint as a Hugging Face ModernBERT folder that transformers 4.48 and later load.

    python tools/convert_to_hf.py RUN/decay_all --tokenizer tokenizer/ --output hf/ --check

--check loads the folder with transformers and compares logits and token ids before it is published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.convert.hf_writer import DEFAULT_SHARD
from megatron_mmbert.utils.errors import run_command


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help="a checkpoint, or a phase's folder (its newest)")
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="what the model was trained with")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR")
    parser.add_argument("--check", action="store_true", help="compare with transformers; fail above 1e-4")
    parser.add_argument("--overwrite", action="store_true", help="replace DIR if it exists")
    parser.add_argument("--max-shard-size", default=DEFAULT_SHARD, metavar="SIZE", help="default %(default)s")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    from megatron_mmbert import parallel  # takes seconds: not before the command line is known to be good
    from megatron_mmbert.convert.export_hf import export

    parallel.start()
    try:
        lines = export(
            arguments.checkpoint,
            arguments.tokenizer,
            arguments.output,
            arguments.check,
            arguments.overwrite,
            arguments.max_shard_size,
        )
    finally:
        parallel.shutdown()
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(main)
