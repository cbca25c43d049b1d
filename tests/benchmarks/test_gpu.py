"""The GPU's benchmarks, tiny and on a CPU: every part runs whole, and what fails or hangs is named and passed over."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.model.config import encoder_config
from megatron_mmbert.model.encoder import Encoder
from megatron_mmbert.model.init import initialize
from megatron_mmbert.parallel import Runtime

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import gpu  # noqa: E402
import gpu_checks  # noqa: E402
import gpu_jobs  # noqa: E402
import gpu_training  # noqa: E402
from gpu_jobs import Job  # noqa: E402
from gpu_packs import lengths_of_pack, packed, samples_of_pack  # noqa: E402
from gpu_scale import Scale  # noqa: E402
from gpu_summary import lines  # noqa: E402

GPU_ONLY = ("te", "FP8", "flex", "varlen", "flash")


@pytest.mark.parametrize("part", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(3, marks=pytest.mark.slow)])
def test_a_part_runs_whole(part: int, tmp_path: Path) -> None:
    command = [sys.executable, "-W", "ignore", str(BENCHMARKS / "gpu.py"), "--part", str(part), "--smoke"]
    done = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    record = json.loads((tmp_path / f"part-{part}.json").read_text())
    names = [job.name for job in gpu_jobs.jobs(part)]
    assert sorted([*record["results"], *record["left_out"]]) == sorted(names)
    surprising = {k: v for k, v in record["left_out"].items() if not any(word in k for word in GPU_ONLY)}
    assert not surprising
    if part == 1:
        assert record["results"]["tests"]["status"] == record["results"]["doctor"]["status"] == 0
    if part == 3:
        assert record["results"]["logits, base"]["worst_relative_difference"] < 1e-4
        assert "times the peer's best" in done.stdout


def _works(scale: Scale) -> Any:
    return {"scale": scale.smoke}


def _fails(scale: Scale) -> Any:
    raise ValueError("no such\nthing")


def _hangs(scale: Scale) -> Any:
    time.sleep(600)


def _dies(scale: Scale) -> Any:
    import os

    os._exit(9)


WORKER = f"""
import sys
sys.path.insert(0, {str(BENCHMARKS)!r}); sys.path.insert(0, {str(Path(__file__).parent)!r})
import gpu, gpu_jobs, test_gpu
gpu_jobs.jobs = lambda part: test_gpu.JOBS
gpu._work(1, True, sys.argv[1:])
"""
JOBS = [Job("a", _works), Job("b", _fails), Job("c", _hangs, 3.0), Job("d", _dies), Job("e", _works)]


def test_what_fails_hangs_or_dies_is_named_and_the_rest_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_jobs, "jobs", lambda part: JOBS)

    def start(part: int, smoke: bool, names: list[str]) -> subprocess.Popen[str]:
        command = [sys.executable, "-W", "ignore", "-c", WORKER, *names]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)

    monkeypatch.setattr(gpu, "_start", start)
    part = gpu.Part(1, True, 300.0, tmp_path / "part-1.json")
    part.all()
    record = json.loads((tmp_path / "part-1.json").read_text())
    assert record["results"] == {"a": {"scale": True}, "e": {"scale": True}}
    assert record["left_out"] == {
        "b": "ValueError: no such thing",
        "c": "took longer than 3 s",
        "d": "its process died (9)",
    }


def test_a_command_that_is_late_is_asked_to_stop_and_what_it_said_is_kept() -> None:
    code = (  # what a shell starts in the background ignores SIGINT, unless it says otherwise
        "import signal, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "try:\n  print('said', flush=True)\n  time.sleep(60)\nexcept KeyboardInterrupt:\n  print('so far')"
    )
    found = gpu_checks._command([sys.executable, "-c", code], 2.0, {})
    assert found["status"] == "stopped at its limit" and found["seconds"] < 20
    assert found["output"] == ["said", "so far"]


def test_all_of_the_gpus_tests_are_run() -> None:
    files = {f"tests/gpu/{path.name}" for path in (BENCHMARKS.parent / "tests/gpu").glob("test_*.py")}
    assert set(gpu_checks.TESTS) == files


def test_a_part_without_time_says_what_it_left_out(tmp_path: Path) -> None:
    part = gpu.Part(2, True, 1.0, tmp_path / "part-2.json")
    part.all()
    record = json.loads((tmp_path / "part-2.json").read_text())
    assert not record["results"]
    assert set(record["left_out"].values()) == {"the part's time was up"}
    assert len(record["left_out"]) == len(gpu_jobs.jobs(2))


@pytest.mark.parametrize("full", [True, False])
def test_packs_are_filled_exactly(full: bool) -> None:
    samples = samples_of_pack(3, 5000, 1024, 2048, 0.3, full)
    batch = packed(samples, 3, 1500)
    assert batch.real_tokens == len(batch.tokens_T) == int(batch.cu_seqlens[-1]) == 5000
    assert batch.max_seqlen <= 1024 and (not full or batch.max_seqlen == 1024)
    assert len(batch.label_K) == len(batch.masked_index_K) == 1500
    assert int(batch.tokens_T.max()) < 2048 and int(batch.tokens_T.min()) >= 0
    scored = batch.label_K >= 0
    assert 0.95 < scored.float().mean() <= 1
    hidden = (batch.tokens_T[batch.masked_index_K[scored]] == 4).float().mean()
    assert 0.75 < hidden < 0.85
    again = packed(samples_of_pack(3, 5000, 1024, 2048, 0.3, full), 3, 1500)
    assert (again.tokens_T == batch.tokens_T).all()


def test_lengths_are_those_of_documents() -> None:
    import numpy as np

    lengths = lengths_of_pack(np.random.default_rng(0), 1 << 20, 1024, False)
    assert sum(lengths) == 1 << 20 and min(lengths) >= 1 and max(lengths) <= 1024
    assert 300 < float(np.median(lengths)) < 700


def test_the_summary_sets_figures_beside_their_targets() -> None:
    rate = {"tflops": 395.0, "attention": "varlen", "linears": "te; x"}
    results = {
        "ceiling": {"tflops": {"square": 790.0}},
        "base, 1024": rate | {"tokens_per_s": 330_000.0},
        "ours, 1024, full": rate | {"tokens_per_s": 300.0},
        "peer, 1024, full, sdpa": {"tokens_per_s": 100.0},
        "peer, 1024, full, flex_attention": {"tokens_per_s": 120.0},
        "losses, bf16": {"losses": [3.0, 2.0], "steps": 2},
        "losses, FP8 current": {"losses": [3.0, 2.01], "steps": 2},
    }
    said = "\n".join(lines({"results": results, "left_out": {"x": "why"}}))
    assert "base, 1024: 330,000 tokens/s, 50% of the ceiling, 40% of the datasheet; target 320,000 (380,000)" in said
    assert "1024, full: 2.50 times the peer's best (peer, 1024, full, flex_attention; target 2)" in said
    assert "losses, FP8 current: 2.0100, bf16 2.0000, apart by 0.50% (limit 1 %)" in said
    assert "left out: x: why" in said


def test_a_process_draws_the_weights_of_a_shape_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[int] = []

    def draw(encoder: Encoder, seed: int) -> None:
        drawn.append(seed)
        initialize(encoder, seed)

    monkeypatch.setattr(gpu_training, "initialize", draw)
    monkeypatch.setattr(gpu_training, "_WEIGHTS", {})
    model = ModelConfig(num_layers=1, hidden_size=16, ffn_hidden_size=16, num_attention_heads=1, vocab_size=64)
    encoders = [Encoder(encoder_config(model, 1e4, 1e4), 64) for _ in range(3)]
    for encoder, seed in zip(encoders, (1, 1, 2), strict=True):
        gpu_training.initialize_once(encoder, seed)
    assert drawn == [1, 2]
    first, second, other = (list(encoder.parameters()) for encoder in encoders)
    assert all(map(torch.equal, first, second)) and not all(map(torch.equal, first, other))
