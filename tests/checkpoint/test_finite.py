"""Checkpoints with values that are not finite: never written, and named by whatever reads one that is there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.run_to_save import Run

from megatron_mmbert.checkpoint import shard_writer, tensor_reader, training_state
from megatron_mmbert.checkpoint.metadata import read_meta
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors, write_tensors
from megatron_mmbert.utils.errors import UserError

TABLE = "embedding.word_embeddings.weight"
MOMENT = f"optimizer.state.exp_avg_sq.{TABLE}"


def spoilt_run(where: str) -> Run:
    run = Run(5)
    run.train(1)
    if where == TABLE:
        dict(run.encoder.named_parameters())[TABLE].data[7, 3] = float("nan")
    else:
        shard = next(each for each in run.optimizer.shards if each.name == TABLE)
        run.optimizer.stable_adamw.state[shard.tensor]["exp_avg_sq"].view(-1)[9] = float("inf")
    return run


@pytest.fixture(params=[TABLE, MOMENT])
def poisoned(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, str]:
    """A committed checkpoint with one bad value, as versions before the check could write."""
    with monkeypatch.context() as patch:
        patch.setattr(shard_writer, "is_finite", lambda *_: True)
        return spoilt_run(request.param).save(tmp_path / "step-00000001"), request.param


def test_loading_names_file_and_tensor(poisoned: tuple[Path, str]) -> None:
    path, name = poisoned
    with pytest.raises(UserError, match=rf"{path}: tensor '{name}' has 1 values that are not finite"):
        Run(3).load(path)


def test_what_is_copied_is_read(
    poisoned: tuple[Path, str], tmp_path: Path, run_tool: Callable[..., tuple[int, str, str]]
) -> None:
    path, name = poisoned
    arguments = (path, "--max-length", 512, "--rope-theta", 160_000, "--output", tmp_path / "out")
    status, _, err = run_tool("extend_context", *arguments)
    assert status == 2 and f"tensor {name!r} has 1 values" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_tensor_is_checked_where_it_is_read(saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = CheckpointTensors(saved)
    values = {name: tensors.load(name) for name in tensors.names()}
    values[TABLE][0, 0] = float("-inf")
    with pytest.raises(UserError, match=f"tensor '{TABLE}' has 1 values .* nothing was written"):
        write_tensors(tmp_path / "bad", read_meta(saved), values)
    assert not list(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(tensor_reader, "check_finite", lambda tensor, *_: tensor)
        write_tensors(tmp_path / "bad", read_meta(saved).model_copy(update={"has_optimizer": False}), values)
    with pytest.raises(UserError, match=f"{tmp_path / 'bad'}: tensor '{TABLE}' has 1 values"):
        CheckpointTensors(tmp_path / "bad").load(TABLE)


@pytest.mark.parametrize("where", [TABLE, MOMENT])
def test_training_does_not_save_them(where: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"not saved, tensor '{where}' has 1 values .*those before it are whole"):
        spoilt_run(where).save(tmp_path / "step-00000001")
    assert not list(tmp_path.iterdir())


def test_a_sound_one_is_loaded(saved: Path, tmp_path: Path) -> None:
    shutil.copytree(saved, tmp_path / "copy")
    run = Run(3)
    training_state.load(tmp_path / "copy", run.encoder, run.optimizer)
