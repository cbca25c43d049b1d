"""``python -m megatron_mmbert COMMAND``, the same as ``mmbert COMMAND``."""

from megatron_mmbert.cli import main

if __name__ == "__main__":
    main()
