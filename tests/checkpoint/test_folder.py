"""Checkpoint folders: whole or absent, checked, the newest sound one found. No tensors needed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from support.run_to_save import META

from megatron_mmbert.checkpoint.folder import (
    CHECKSUM_FILE,
    META_FILE,
    apply_retention,
    check_output,
    checksum_problems,
    committed_checkpoint,
    committed_checkpoints,
    newest_valid,
    read_meta,
    resolve,
    step_folder,
    write_meta,
)
from megatron_mmbert.utils.errors import UserError


def write(path: Path, content: bytes = b"tensors", tokens: int = 0) -> Path:
    """A folder that is sound, though no tensors are in it."""
    with committed_checkpoint(path) as folder:
        (folder / "data.distcp").write_bytes(content)
        write_meta(folder, META.model_copy(update={"phase_tokens": tokens}))
    return path


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
        with committed_checkpoint(path):
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


@pytest.mark.parametrize("damage", ["byte", "truncated", "missing", "checksums", "description", "list"])
def test_newest_sound_skips_and_names(damage: str, tmp_path: Path) -> None:
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


def test_keep_newest(tmp_path: Path) -> None:
    for step in (5, 20, 100):
        write(step_folder(tmp_path, step))
    (tmp_path / "notes").mkdir()
    apply_retention(tmp_path, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes", "step-00000020", "step-00000100"]
    apply_retention(tmp_path, 5)
    assert len(committed_checkpoints(tmp_path)) == 2


@pytest.mark.parametrize("saved", [range(1, 41), [3, 9, 10, 26, 27, 28, 29, 40], [1, 2, 3, 60]])
def test_keep_every_so_many_tokens(saved: Iterable[int], tmp_path: Path) -> None:
    """Saved and pruned in turn, the first checkpoint after each 10 tokens stays, and the last two."""
    steps = list(saved)
    for step in steps:
        write(step_folder(tmp_path, step), tokens=step)
        apply_retention(tmp_path, 2, 10)
    firsts = {next((step for step in steps if step // 10 == tens), 0) for tens in range(1, 7)} - {0}
    kept = [int(path.name[5:]) for path in committed_checkpoints(tmp_path)]
    assert kept == sorted(firsts | set(steps[-2:]))
    assert len(list(tmp_path.iterdir())) == len(kept)


def test_what_cannot_be_read_is_neither_counted_nor_deleted(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        write(step_folder(tmp_path, step))
    (step_folder(tmp_path, 3) / META_FILE).write_text("{")
    apply_retention(tmp_path, 1)
    assert [path.name for path in committed_checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


def test_unknown_field_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "step-00000001")
    values = json.loads((path / META_FILE).read_text())
    (path / META_FILE).write_text(json.dumps({**values, "surprise": 1}))
    with pytest.raises(UserError, match="surprise"):
        read_meta(path)


def test_check_output(tmp_path: Path) -> None:
    path = write(tmp_path / "run" / "step-00000001")
    check_output(tmp_path / "new", (path,), overwrite=False)
    with pytest.raises(UserError, match="--overwrite"):
        check_output(tmp_path, (), overwrite=False)
    for output in (path, tmp_path / "run", tmp_path):
        with pytest.raises(UserError, match="is, or holds"):
            check_output(output, (path,), overwrite=True)
