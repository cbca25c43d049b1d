"""``python -m megatron_mmbert.config.show``: the command ``mmbert config-show``."""

from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("config-show", "python -m megatron_mmbert.config.show")
