"""Saving in the background: what is written is the moment of the save, one at a time, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from support import ROOT
from support.run_to_save import META, Run, assert_equal

from megatron_mmbert.checkpoint import save_plan, training_state
from megatron_mmbert.checkpoint.async_saver import AsyncSaver, Outcome
from megatron_mmbert.checkpoint.commit import CHECKSUM_FILE, checksum_problems
from megatron_mmbert.checkpoint.discovery import newest_valid
from megatron_mmbert.checkpoint.retention import remove_leftovers
from megatron_mmbert.utils.fault_points import Moment, installed

NAME = "step-00000002"


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """Writers wait in the middle of their file until it is set."""
    event = threading.Event()

    def wait(cancelled: threading.Event) -> None:
        while not (event.wait(0.01) or cancelled.is_set()):
            pass

    with installed(Moment.SHARD_WRITE, wait):
        yield event
        event.set()


def begin(saver: AsyncSaver, run: Run, path: Path) -> Outcome | None:
    return saver.begin(path, META, training_state.state_of(run.encoder, run.optimizer))


def tensors_checksum(path: Path) -> dict[str, object]:
    return dict(json.loads((path / CHECKSUM_FILE).read_text())["__0_0.distcp"])


def trained() -> Run:
    run = Run(3)
    run.train(2)
    return run


@pytest.mark.parametrize("copies", [True, False])
def test_training_goes_on_and_the_checkpoint_is_of_the_moment_it_was_begun(
    copies: bool, gate: threading.Event, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Byte for byte what a save that is waited for writes. Without the copies it is not: the test can fail."""
    run, saver = trained(), AsyncSaver(asynchronous=True)
    before = run.state()
    monkeypatch.setattr(saver._plan, "_copies", copies)
    assert begin(saver, run, tmp_path / NAME) is None
    run.train(3)
    assert saver.poll() is None and not (tmp_path / NAME).exists()
    gate.set()
    outcome = saver.wait()
    assert outcome is not None and outcome.problem == "" and 0 < outcome.stalled <= outcome.wrote
    waited = trained().save(tmp_path / "waited" / NAME)
    assert list(checksum_problems(tmp_path / NAME)) == []
    assert (tensors_checksum(tmp_path / NAME) == tensors_checksum(waited)) is copies
    if copies:
        other = Run(9)
        other.load(tmp_path / NAME)
        assert_equal(other.state(), before)


def test_the_kept_buffers_hold_the_newest_save(tmp_path: Path) -> None:
    run, saver = trained(), AsyncSaver(asynchronous=True)
    for step in (2, 3, 4):
        assert begin(saver, run, tmp_path / f"step-0000000{step}") is None
        outcome = saver.wait()
        assert outcome is not None and outcome.problem == ""
        waited = training_save(run, tmp_path / "waited" / f"step-0000000{step}")
        assert tensors_checksum(outcome.path) == tensors_checksum(waited)
        run.train(1)
    assert len(saver._plan._buffers) == len(set(map(id, saver._plan._buffers)))


def training_save(run: Run, path: Path) -> Path:
    training_state.save(path, META, run.encoder, run.optimizer)
    return path


def test_plans_are_exchanged_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []
    plan = save_plan._plan_save

    def noted(*arguments: object, **options: object) -> object:
        asked.append(options["cached_ckpt_structure"] is None)
        return plan(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(save_plan, "_plan_save", noted)
    run, saver = trained(), AsyncSaver(asynchronous=True)
    for step in (2, 3):
        begin(saver, run, tmp_path / f"step-0000000{step}")
        saver.wait()
    assert asked == [True, False]


@pytest.mark.parametrize("asynchronous", [True, False])
@pytest.mark.parametrize("place", ["write", "fsync", "commit", "rename", "mkdir"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
def test_a_disk_that_fails_anywhere_is_one_sentence(
    number: int, place: str, asynchronous: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, saver = trained(), AsyncSaver(asynchronous)
    training_save(run, tmp_path / "step-00000001")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    writer = sys.modules["megatron_mmbert.checkpoint.shard_writer"]
    where: dict[str, tuple[Any, str]] = {
        "fsync": (os, "fsync"),
        "commit": (writer, "save_config"),
        "rename": (writer, "replace_folder"),
        "mkdir": (Path, "mkdir"),
    }
    with ExitStack() as stack:
        if place == "write":
            stack.enter_context(installed(Moment.SHARD_WRITE, full))
        else:
            stack.enter_context(monkeypatch.context()).setattr(*where[place], full)
        outcome = begin(saver, run, tmp_path / NAME) or saver.wait()
    assert outcome is not None
    reason = {errno.ENOSPC: "disk is full", errno.EDQUOT: "quota", errno.EIO: "input/output error"}[number]
    assert outcome.problem.startswith(f"{tmp_path / NAME}: not saved, ") and reason in outcome.problem
    assert "bytes are free and the tensors take" in outcome.problem and "\n" not in outcome.problem
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]
    assert newest_valid(tmp_path) == tmp_path / "step-00000001"
    assert begin(saver, run, tmp_path / NAME) is None or not asynchronous  # and the next one is well again
    saver.wait()
    assert list(checksum_problems(tmp_path / NAME)) == []


def test_cancelled_leaves_a_dot_folder_that_the_next_start_removes(gate: threading.Event, tmp_path: Path) -> None:
    run, saver = trained(), AsyncSaver(asynchronous=True)
    begin(saver, run, tmp_path / NAME)
    saver.cancel()
    assert [path.name for path in tmp_path.iterdir()] == [f".{NAME}.tmp"]
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_ranks_agree(tmp_path: Path) -> None:
    script = ROOT / "tests/support/saving_ranks.py"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script), str(tmp_path)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = [json.loads((tmp_path / f"rank-{number}.json").read_text()) for number in (0, 1)]
    assert all(each["early"] and each["outcome"] == "" for each in seen), "committed when both had written, not before"
    for path in (tmp_path / NAME, tmp_path / "waited" / NAME):
        assert list(checksum_problems(path)) == []
    checksums = [json.loads((path / NAME / CHECKSUM_FILE).read_text()) for path in (tmp_path, tmp_path / "waited")]
    for name in ("__0_0.distcp", "__1_0.distcp"):
        assert checksums[0][name] == checksums[1][name]
    assert seen[0]["problem"] == seen[1]["problem"]
    assert "the disk is full" in seen[0]["problem"] and "(rank 1)" in seen[0]["problem"]
    assert sorted(path.name for path in tmp_path.glob("*step*")) == [NAME], "nothing half-written is left"
