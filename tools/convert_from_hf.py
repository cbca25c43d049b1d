"""Make a checkpoint from a Hugging Face ModernBERT folder, such as a released mmBERT, to train on from.

    python tools/convert_from_hf.py mmBERT-base/ --output start/ --check
    python -m megatron_mmbert.pretrain RECIPE.yaml --phase NAME --start-from start/

Reads safetensors, or pytorch_model.bin by torch's weights-only reader; needs the masked-language-model head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.utils.errors import run_command


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="HF_DIR", help="a folder with config.json and weights")
    parser.add_argument("--output", type=Path, required=True, metavar="CKPT")
    parser.add_argument("--check", action="store_true", help="compare logits with transformers; fail above 1e-4")
    parser.add_argument("--overwrite", action="store_true", help="replace CKPT if it exists")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    from megatron_mmbert import parallel  # takes seconds: not before the command line is known to be good
    from megatron_mmbert.convert.import_hf import import_folder

    parallel.start()
    try:
        lines = import_folder(arguments.source, arguments.output, arguments.check, arguments.overwrite)
    finally:
        parallel.shutdown()
    print("\n".join(lines))


if __name__ == "__main__":
    run_command(main)
