"""Conversion and merging hold a part of what they read: their peak memory grows far less than the checkpoints do.

Peak memory is that of a process of its own, less that of the same command on a checkpoint of next to nothing.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.tiny_checkpoint import random_weights

from megatron_mmbert.checkpoint.metadata import CheckpointMeta
from megatron_mmbert.checkpoint.tensor_reader import write_tensors
from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.convert.name_mapping import hf_names, reorder_rows_for_megatron
from megatron_mmbert.parallel import Runtime

pytestmark = pytest.mark.slow

_PEAK = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
own = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print("peak", int(own.split()[1]) * 1024)
"""


def peak_bytes(*command: object) -> int:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _PEAK, *map(str, command)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return int(done.stdout.rsplit("peak ", 1)[1])


def checkpoint(folder: Path, layers: int, width: int, seed: int) -> Path:
    """A checkpoint with random weights; the largest tensor of the large one is an eighteenth of it."""
    model = ModelConfig(
        num_layers=layers, hidden_size=width, ffn_hidden_size=2 * width, num_attention_heads=4, vocab_size=400,
        max_length=512,
    )  # fmt: skip
    meta = CheckpointMeta(model=model, rope_theta=1e4, rope_theta_local=1e4, max_length=512)
    weights = random_weights(model, seed)
    names = hf_names(layers).items()
    write_tensors(folder, meta, {ours: reorder_rows_for_megatron(ours, weights[theirs], 4) for ours, theirs in names})
    return folder


@pytest.fixture(scope="module")
def sizes(runtime: Runtime, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    folder = tmp_path_factory.mktemp("memory")
    return {
        name: [checkpoint(folder / f"{name}{seed}", layers, width, seed) for seed in range(4)]
        for name, layers, width in (("small", 2, 32), ("large", 8, 768))
    }


def weight_bytes(path: Path) -> int:
    return sum(file.stat().st_size for file in path.glob("*.distcp"))


def test_merging_four_holds_less_than_two(sizes: dict[str, list[Path]], tmp_path: Path) -> None:
    peaks = {}
    for name, (base, *models) in sizes.items():
        peaks[name] = peak_bytes(
            "tools/merge_ties.py", "--base", base, "--models", *models, "--output", tmp_path / name
        )
    one = weight_bytes(sizes["large"][0])
    assert one > 150e6
    assert peaks["large"] - peaks["small"] < 2 * one, "four were read; one is the result"


def test_conversion_holds_a_shard(
    sizes: dict[str, list[Path]], tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from support.tiny_checkpoint import make_tokenizer

    tokenizer = make_tokenizer(tmp_path_factory.mktemp("tokenizer"), 400)
    peaks = {
        name: peak_bytes(
            "tools/convert_to_hf.py", paths[0], "--tokenizer", tokenizer, "--output", tmp_path / name,
            "--max-shard-size", "30MB",
        )
        for name, paths in sizes.items()
    }  # fmt: skip
    assert peaks["large"] - peaks["small"] < weight_bytes(sizes["large"][0]) / 2
