"""``python -m megatron_mmbert.train.where``: the command ``mmbert where``."""

from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("where", "python -m megatron_mmbert.train.where")
