"""Make a checkpoint from a Hugging Face ModernBERT folder, such as a released mmBERT, to train on from.

Reads safetensors, or pytorch_model.bin by torch's weights-only reader; needs the masked-language-model head.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import add_allow_different, add_output

EXAMPLES = """
mmbert convert-from-hf mmBERT-base/ --output start/ --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("source", type=Path, metavar="HF_DIR", help="a folder with config.json and weights")
    add_output(parser, "CKPT", "checkpoint to write; train from it with `mmbert pretrain --start-from CKPT`")
    parser.add_argument("--check", action="store_true", help="compare logits with transformers; fail above 1e-4")
    add_allow_different(parser)


def run(arguments: argparse.Namespace) -> None:
    """Convert, and say what was compared."""
    from megatron_mmbert import parallel
    from megatron_mmbert.convert.import_hf import import_folder

    with parallel.process_group():
        lines = import_folder(
            arguments.source, arguments.output, arguments.check, arguments.overwrite, arguments.allow_different
        )
    print("\n".join(lines))
