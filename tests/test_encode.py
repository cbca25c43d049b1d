"""The former name of the package for inference still works, from Python and from the shell."""

from __future__ import annotations

import subprocess
import sys

import pytest

from megatron_mmbert import encode, inference


def test_the_names_are_those_of_inference() -> None:
    assert encode.__all__ == inference.__all__
    assert all(getattr(encode, name) is getattr(inference, name) for name in encode.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = encode.nothing


def test_the_command_is_mmbert_encode() -> None:
    done = subprocess.run([sys.executable, "-m", "megatron_mmbert.encode", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "usage: python -m megatron_mmbert.encode" in done.stdout, done.stderr
