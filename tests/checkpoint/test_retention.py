"""Which checkpoints of a phase stay."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from support.step_folders import write

from megatron_mmbert.checkpoint import discovery
from megatron_mmbert.checkpoint.discovery import ValidCheckpoints, committed_checkpoints, step_folder
from megatron_mmbert.checkpoint.metadata import META_FILE
from megatron_mmbert.checkpoint.retention import apply_retention


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


def test_damaged_checkpoints_of_higher_steps_do_not_displace_new_ones(tmp_path: Path) -> None:
    """A run resumed from an older checkpoint keeps what it writes, whatever lies damaged at later steps."""
    for step in (99_000, 100_000):
        (write(step_folder(tmp_path, step)) / "data.distcp").write_bytes(b"other")
    for step in (3, 5, 7):
        write(step_folder(tmp_path, step))
        apply_retention(tmp_path, 2)
        assert step_folder(tmp_path, step).is_dir(), "the one just written stays"
    kept = [path.name for path in committed_checkpoints(tmp_path)]
    assert kept == ["step-00000005", "step-00000007", "step-00099000", "step-00100000"]


def test_the_last_valid_checkpoint_stays(tmp_path: Path) -> None:
    write(step_folder(tmp_path, 1))
    for step in (2, 3, 4):
        (write(step_folder(tmp_path, step)) / "data.distcp").write_bytes(b"other")
    apply_retention(tmp_path, 1)
    assert step_folder(tmp_path, 1).is_dir()


def test_a_damaged_first_of_a_span_does_not_stand_for_it(tmp_path: Path) -> None:
    for step in range(10, 16):
        write(step_folder(tmp_path, step), tokens=step)
    (step_folder(tmp_path, 10) / "data.distcp").write_bytes(b"other")
    apply_retention(tmp_path, 2, 10)
    assert [int(path.name[5:]) for path in committed_checkpoints(tmp_path)] == [11, 14, 15]


def test_each_checkpoint_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Path] = []
    monkeypatch.setattr(discovery, "checksum_problems", lambda path: read.append(path) or iter(()))
    known = ValidCheckpoints()
    for step in range(1, 8):
        known.add(write(step_folder(tmp_path, step)))
        apply_retention(tmp_path, 3, known=known)
    assert read == [], "what this process has written it need not read"
    assert known.problem(write(step_folder(tmp_path, 9))) is None
    assert known.problem(step_folder(tmp_path, 9)) is None and read == [step_folder(tmp_path, 9)]
