"""``python -m megatron_mmbert.inference``: the command ``mmbert encode``."""

from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("encode", "python -m megatron_mmbert.inference")
