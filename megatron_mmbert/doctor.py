"""``python -m megatron_mmbert.doctor``: the command ``mmbert doctor``."""

from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("doctor", "python -m megatron_mmbert.doctor")
