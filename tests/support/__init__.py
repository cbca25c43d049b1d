"""Helpers that several test folders share: tiny runs, checkpoints and stores, forked ranks, hosts, a Slurm."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
"""The project's root."""
