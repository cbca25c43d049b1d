"""A planted pickle does not run, in whichever file of a checkpoint it lies, and by whichever command it is opened."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.run_to_save import META, Run
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from megatron_mmbert.checkpoint import training_state
from megatron_mmbert.checkpoint.commit import finalize
from megatron_mmbert.checkpoint.safe_unpickle import METADATA_FILE, check_contents
from megatron_mmbert.checkpoint.tensor_reader import CheckpointTensors
from megatron_mmbert.parallel import Runtime
from megatron_mmbert.utils.errors import UserError


class Planted:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, trace: Path) -> None:
        self._trace = str(trace)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (self._trace,)


@pytest.fixture
def checkpoint(runtime: Runtime, tmp_path: Path) -> Path:
    run = Run(seed=1)
    path = tmp_path / "step-00000001"
    training_state.save(path, META, run.encoder, run.optimizer)
    return path


def openings(path: Path) -> list[Callable[[], Any]]:
    """The ways into a checkpoint: training resumes from it, tools read its tensors."""
    run = Run(seed=2)
    return [lambda: training_state.load(path, run.encoder, run.optimizer), lambda: CheckpointTensors(path)]


def test_a_good_checkpoint_passes(checkpoint: Path) -> None:
    check_contents(checkpoint)
    for opening in openings(checkpoint):
        opening()


def _plant(file: Path, trace: Path) -> None:
    """Put the planted object into ``file`` and seal the folder anew, as an attacker would."""
    if file.name == METADATA_FILE:
        table = pickle.loads(file.read_bytes())
        table.planner_data = Planted(trace)
        file.write_bytes(pickle.dumps(table))
    elif file.name == "common.pt":
        values = torch.load(file)
        torch.save(values | {"more": Planted(trace)}, file)
    else:
        box = io.BytesIO()
        torch.save(Planted(trace), box)
        file.write_bytes(box.getvalue() + file.read_bytes()[len(box.getvalue()) :])
    (file.parent / "checksums.json").unlink()
    finalize(file.parent)


@pytest.mark.parametrize("name", [METADATA_FILE, "common.pt", "__0_0.distcp"])
def test_a_planted_pickle_does_not_run(name: str, checkpoint: Path, tmp_path: Path) -> None:
    trace = tmp_path / "it ran"
    _plant(checkpoint / name, trace)
    for opening in openings(checkpoint):
        try:
            opening()
        except UserError as error:
            assert str(checkpoint) in str(error)
        except Exception as error:
            pytest.fail(f"a traceback for the user: {error!r}")
        assert not trace.exists()


def test_the_control_would_run(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Planted(tmp_path / "ran")))
    assert (tmp_path / "ran").is_dir()


def test_objects_behind_the_table_and_files_elsewhere_are_refused(checkpoint: Path) -> None:
    file = checkpoint / METADATA_FILE
    whole = file.read_bytes()
    table = pickle.loads(whole)
    table.state_dict_metadata["more"] = BytesStorageMetadata()
    file.write_bytes(pickle.dumps(table))
    with pytest.raises(UserError, match="BytesStorageMetadata"):
        check_contents(checkpoint)
    table = pickle.loads(whole)
    index, place = next(iter(table.storage_data.items()))
    table.storage_data[index] = dataclasses.replace(place, relative_path="../../elsewhere")
    file.write_bytes(pickle.dumps(table))
    with pytest.raises(UserError, match="outside the checkpoint"):
        check_contents(checkpoint)


@pytest.mark.parametrize("content", [b"", b"garbage", pickle.dumps([1, 2]), pickle.dumps({"a": 1})[:-3]])
def test_a_damaged_table_is_one_sentence(content: bytes, checkpoint: Path) -> None:
    (checkpoint / METADATA_FILE).write_bytes(content)
    with pytest.raises(UserError, match="take another checkpoint"):
        check_contents(checkpoint)


def test_no_traceback_is_logged_of_a_table_that_cannot_be_opened(
    saved: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", ".metadata")

    tensors = CheckpointTensors(saved)
    monkeypatch.setattr("torch.distributed.checkpoint.FileSystemReader.read_metadata", fails)
    with pytest.raises(UserError, match=f"{saved}: cannot be read .*ermission denied"):
        tensors.load(tensors.names()[0])
    assert "Traceback" not in caplog.text and "metadata is not found" not in caplog.text
