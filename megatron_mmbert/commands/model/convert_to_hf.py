"""Write a checkpoint as a Hugging Face ModernBERT folder that transformers 4.48 and later load.

--check loads the folder with transformers and compares logits and token ids before it is published.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megatron_mmbert.commands.arguments import CHECKPOINT_HELP, add_allow_different, add_output

EXAMPLES = """
mmbert convert-to-hf RUN/decay_all --tokenizer tokenizer/ --output hf/ --check
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments to ``parser``."""
    parser.add_argument("checkpoint", type=Path, metavar="CKPT", help=CHECKPOINT_HELP)
    parser.add_argument("--tokenizer", type=Path, required=True, metavar="DIR", help="what the model was trained with")
    add_output(parser)
    parser.add_argument("--check", action="store_true", help="compare with transformers; fail above 1e-4")
    parser.add_argument("--max-shard-size", default="5GB", metavar="SIZE", help="of a weights file (%(default)s)")
    add_allow_different(parser)


def run(arguments: argparse.Namespace) -> None:
    """Export, and say what was compared."""
    from megatron_mmbert import parallel
    from megatron_mmbert.convert.export_hf import export_checkpoint

    with parallel.process_group():
        lines = export_checkpoint(
            arguments.checkpoint,
            arguments.tokenizer,
            arguments.output,
            arguments.check,
            arguments.overwrite,
            arguments.max_shard_size,
            arguments.allow_different,
        )
    print("\n".join(lines))
