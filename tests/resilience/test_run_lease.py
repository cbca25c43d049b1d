"""One trainer at a time in a phase's folder."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.resilience.run_lease import LEASE_FILE, RunLease
from megatron_mmbert.utils.errors import UserError


def test_the_second_is_told_who_trains(tmp_path: Path) -> None:
    lease = RunLease(tmp_path)
    with pytest.raises(
        UserError, match=f"process {os.getpid()} on {socket.gethostname()} has been training here since"
    ):
        RunLease(tmp_path)
    lease.release()
    assert list(tmp_path.iterdir()) == []
    RunLease(tmp_path).release()


def test_what_the_dead_left_while_they_asked_is_removed(tmp_path: Path) -> None:
    left = [tmp_path / f".{LEASE_FILE}.0123.{ending}" for ending in ("tmp", "now")]
    left.append(tmp_path / ".heartbeat.json.17.tmp")
    for path in left:
        path.touch()
    lease = RunLease(tmp_path, stale_seconds=0.05)
    assert not left[0].exists() and not left[2].exists()
    lease.release()
    time.sleep(0.1)
    RunLease(tmp_path, stale_seconds=0.05).release()
    assert list(tmp_path.iterdir()) == []


def test_the_lease_of_a_dead_process_is_taken_over(tmp_path: Path) -> None:
    script = (
        f"from pathlib import Path\nfrom megatron_mmbert.resilience.run_lease import RunLease\nimport os\n"
        f"_ = RunLease(Path({str(tmp_path)!r}))\nos._exit(9)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=False)
    assert (tmp_path / LEASE_FILE).is_file()
    said: list[str] = []
    lease = RunLease(tmp_path, said.append)
    assert len(said) == 1 and "taken over: its process is gone" in said[0]
    lease.release()


def other_host(folder: Path, age: float = 0.0) -> Path:
    path = folder / LEASE_FILE
    path.write_text(json.dumps({"host": "elsewhere", "process": 7, "job": "4711", "mark": "x", "since": "then"}))
    os.utime(path, (time.time() - age,) * 2)
    return path


def test_a_lease_of_another_host_without_a_heartbeat_is_taken_over(tmp_path: Path) -> None:
    other_host(tmp_path, age=3600)
    said: list[str] = []
    lease = RunLease(tmp_path, said.append)
    assert "process 7 of job 4711 on elsewhere taken over: it has given no sign for 36" in said[-1]
    lease.release()


def test_a_fresh_lease_of_another_host_is_waited_for(tmp_path: Path) -> None:
    other_host(tmp_path)
    said: list[str] = []
    lease = RunLease(tmp_path, said.append, stale_seconds=0.6, renew_seconds=0.1)
    assert "waiting up to" in said[0] and "taken over" in said[1]
    lease.release()


def test_a_living_lease_of_another_host_is_respected(tmp_path: Path) -> None:
    path = other_host(tmp_path)
    over = threading.Event()

    def beat() -> None:
        while not over.wait(0.05):
            os.utime(path)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(UserError, match="process 7 of job 4711 on elsewhere has been training here since then"):
            RunLease(tmp_path, lambda _: None, stale_seconds=5, renew_seconds=0.1)
    finally:
        over.set()
        thread.join()


def test_the_heartbeat_moves_and_a_loss_is_seen(tmp_path: Path) -> None:
    lease = RunLease(tmp_path, renew_seconds=0.05)
    path = tmp_path / LEASE_FILE
    os.utime(path, (0, 0))
    deadline = time.monotonic() + 5
    while path.stat().st_mtime == 0 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert path.stat().st_mtime > 0
    other_host(tmp_path)
    while lease.lost_to() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert lease.lost_to() == "process 7 of job 4711 on elsewhere"
    lease.release()
    assert path.is_file(), "the lease of another is not removed"


def test_a_lease_that_cannot_be_read_for_a_while_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lease = RunLease(tmp_path, renew_seconds=0.02)

    def unreadable(path: Path, *arguments: Any, **options: Any) -> str:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_text", unreadable)
        time.sleep(0.1)
        assert lease.lost_to() is None
        lease.release()
    assert list(tmp_path.iterdir()) == []


def test_of_many_at_once_one_has_it(tmp_path: Path) -> None:
    other_host(tmp_path, age=3600)
    won: list[RunLease] = []
    refused: list[str] = []

    def take() -> None:
        try:
            won.append(RunLease(tmp_path, lambda _: None))
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].release()
