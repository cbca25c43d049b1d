"""``torchrun [...] -m megatron_mmbert.pretrain``: the command ``mmbert pretrain``."""

from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("pretrain", "python -m megatron_mmbert.pretrain")
