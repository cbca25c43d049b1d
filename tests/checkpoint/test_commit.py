"""A checkpoint folder is there whole or not at all. No tensors needed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.run_to_save import META
from support.step_folders import write

from megatron_mmbert.checkpoint.commit import checksum_problems, committed_checkpoint
from megatron_mmbert.checkpoint.discovery import committed_checkpoints
from megatron_mmbert.checkpoint.metadata import read_meta, write_meta


def test_commit_by_rename(tmp_path: Path) -> None:
    path = tmp_path / "step-00000001"
    with committed_checkpoint(path) as folder:
        write_meta(folder, META)
        assert not path.exists()  # nobody sees it half-written
    assert path.is_dir() and list(checksum_problems(path)) == []
    assert [each.name for each in tmp_path.iterdir()] == [path.name]
    assert read_meta(path).model == META.model and read_meta(path).written_at.endswith("Z")


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_exception_leaves_nothing(error: type[BaseException], tmp_path: Path) -> None:
    def fail() -> None:
        with committed_checkpoint(tmp_path / "step-00000001") as folder:
            (folder / "data.distcp").write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_failure_while_committing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_space(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        write(tmp_path / "step-00000001")
    assert list(tmp_path.iterdir()) == []


def test_failure_spares_the_folder_that_was_there(tmp_path: Path) -> None:
    path = write(tmp_path / "step-00000001", b"old")

    def fail() -> None:
        with committed_checkpoint(path, overwrite=True):
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (path / "data.distcp").read_bytes() == b"old" and list(checksum_problems(path)) == []


def test_a_folder_that_is_there_is_replaced(tmp_path: Path) -> None:
    """A resumed run comes to the step of a damaged checkpoint again."""
    path = write(tmp_path / "step-00000001", b"old")
    write(path, b"new")
    assert (path / "data.distcp").read_bytes() == b"new"
    assert [each.name for each in tmp_path.iterdir()] == [path.name]


def test_left_behind_by_a_killed_process(tmp_path: Path) -> None:
    (tmp_path / ".step-00000001.tmp").mkdir()
    (tmp_path / ".step-00000001.tmp" / "stale").write_text("x")
    assert committed_checkpoints(tmp_path) == []
    path = write(tmp_path / "step-00000001")
    assert not (path / "stale").exists()
