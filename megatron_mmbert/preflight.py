"""``python -m megatron_mmbert.preflight``: the command ``mmbert preflight``."""

from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("preflight", "python -m megatron_mmbert.preflight")
