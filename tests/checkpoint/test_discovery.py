"""The newest valid checkpoint is found, corrupt ones are named and skipped. No tensors needed."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from support.step_folders import write

from megatron_mmbert.checkpoint import discovery
from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE
from megatron_mmbert.checkpoint.discovery import newest_step, newest_valid, resolve, step_folder
from megatron_mmbert.checkpoint.metadata import META_FILE
from megatron_mmbert.utils.errors import UserError


@pytest.mark.parametrize("damage", ["byte", "truncated", "missing", "checksums", "description", "list"])
def test_newest_valid_skips_and_names(damage: str, tmp_path: Path) -> None:
    good, bad = write(step_folder(tmp_path, 9)), write(step_folder(tmp_path, 10))
    data = bad / "data.distcp"
    if damage == "byte":
        data.write_bytes(b"tensorz")
    elif damage == "truncated":
        data.write_bytes(b"tens")
    elif damage == "missing":
        data.unlink()
    elif damage == "checksums":
        (bad / CHECKSUM_FILE).unlink()
    elif damage == "list":
        (bad / CHECKSUM_FILE).write_text("[]")
    else:
        (bad / META_FILE).write_text("{")
    said: list[str] = []
    assert newest_valid(tmp_path, said.append) == good
    assert len(said) == 1 and str(bad) in said[0]
    assert bad.exists()  # left alone
    assert resolve(tmp_path) == good
    with pytest.raises(UserError, match="step-00000010"):
        resolve(bad)


def test_resolve(tmp_path: Path) -> None:
    newest = [write(step_folder(tmp_path / "phase" / "checkpoints", step)) for step in (99_999_999, 100_000_000)][-1]
    for given in (newest, tmp_path / "phase", tmp_path / "phase" / "checkpoints"):
        assert resolve(given) == newest
    for given in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(UserError, match="no checkpoint here"):
            resolve(given)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_an_error_that_says_nothing_of_a_checkpoint_is_raised(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An older one must not take its place only because no more files could be opened."""
    for step in (9, 10):
        write(step_folder(tmp_path, step))

    def fail(path: Path) -> None:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(discovery, "read_meta", fail)
    with pytest.raises(OSError, match=os.strerror(number)):
        newest_valid(tmp_path)


def test_the_newest_valid_checkpoint_counts(tmp_path: Path) -> None:
    said: list[str] = []
    assert newest_step(tmp_path) == (0, False)
    for step, finished in ((3, False), (7, True)):
        folder = write(step_folder(tmp_path, step), step=step, finished=finished)
    assert newest_step(tmp_path) == (7, True)
    (folder / "data.distcp").write_bytes(b"other")
    assert newest_step(tmp_path, said.append) == (3, False), "not complete for a damaged folder that says so"
    assert "data.distcp: content differs" in said[0]
    (step_folder(tmp_path, 3) / "checkpoint.json").write_text("{")
    with pytest.raises(UserError, match="none of the checkpoints is valid"):
        newest_step(tmp_path)
