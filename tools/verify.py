"""The command `mmbert verify`, also from a checkout that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from megatron_mmbert.cli import run_as

if __name__ == "__main__":
    run_as("verify")
