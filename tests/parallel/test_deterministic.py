"""Deterministic mode: nothing is chosen by timing, what cannot be deterministic is refused, and a run is repeated."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from support.tiny_run import make_run

from megatron_mmbert import attention
from megatron_mmbert.attention import AUTO, ENGINES, Engine, Request, choose
from megatron_mmbert.attention.selection import Trial
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.config import load_recipe
from megatron_mmbert.parallel import deterministic
from megatron_mmbert.utils.errors import UserError

ON_GPU = Request("cuda", torch.bfloat16, 64, 64, backward=True)


@pytest.fixture
def switched_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("CUBLAS_WORKSPACE_CONFIG", "NVTE_ALLOW_NONDETERMINISTIC_ALGO"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    deterministic.switch_on()
    yield
    torch.use_deterministic_algorithms(False)


def test_the_switches(switched_on: None) -> None:
    assert torch.are_deterministic_algorithms_enabled()
    assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert os.environ["NVTE_ALLOW_NONDETERMINISTIC_ALGO"] == "0"


def test_a_workspace_of_ones_own_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":0:0")
    with pytest.raises(UserError, match="CUBLAS_WORKSPACE_CONFIG=:0:0: not deterministic; unset it"):
        deterministic.switch_on()
    assert not torch.are_deterministic_algorithms_enabled()


def test_engines_are_checked_in_a_fixed_order_and_none_is_timed(
    switched_on: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(engine: Engine, *_: object) -> Trial:
        raise AssertionError(f"{engine.name} is timed")

    def checked(engine: Engine, request: Request, heads: int) -> Trial:
        """Transformer Engine loads, and its kernels fail."""
        return Trial(engine.name, "fails here: cuDNN error" if engine.name in ("cpu", "te") else None)

    monkeypatch.setattr(attention, "try_engine", timed)
    monkeypatch.setattr(attention, "check_engine", checked)
    monkeypatch.setattr(attention, "_first_correct_here", functools.cache(attention._first_correct_here.__wrapped__))
    assert choose(AUTO, ON_GPU, 12).name == "varlen", "the first that is correct; flash is not deterministic"


def test_an_engine_that_is_not_deterministic_is_refused(switched_on: None, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine("hasty", ENGINES["eager"].attend, lambda request: None, deterministic=False)
    monkeypatch.setitem(attention.ENGINES, "hasty", engine)
    with pytest.raises(UserError, match="attention engine 'hasty': not deterministic; choose auto"):
        choose("hasty", ON_GPU, 12)
    torch.use_deterministic_algorithms(False)
    assert choose("hasty", ON_GPU, 12) is engine


def test_a_probe_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: mine\npreset: tiny\ntokenizer: {path: none}\ndata: {stores: [none]}\n")
    fp8 = ["precision.dtype=bf16", "precision.fp8=current", "precision.deterministic=true"]
    with pytest.raises(
        UserError, match=r"a probe chooses it by its speed; name the linear layers in fp8_linear_layers"
    ):
        load_recipe(path, fp8)
    assert load_recipe(path, [*fp8, "precision.fp8_linear_layers=[fc1]"]).precision.deterministic


def test_two_runs_write_the_same_bits(tmp_path: Path) -> None:
    recipe = make_run(tmp_path / "data")
    written = []
    for name in ("one", "two"):
        command = [sys.executable, "-W", "ignore", "-m", "megatron_mmbert.pretrain", str(recipe), "--phase", "first"]
        options = ["--output", str(tmp_path / name), "precision.deterministic=true", "phases.first.tokens=2000"]
        done = subprocess.run([*command, *options], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        (newest,) = committed_checkpoints(tmp_path / name / "first/checkpoints")
        written.append([file.read_bytes() for file in sorted(newest.glob("*.distcp"))])
    assert written[0] == written[1] and written[0]
