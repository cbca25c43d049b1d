"""The folder in which a store is made: whose it is."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path

import pytest

from megatron_mmbert.data.preprocess import output_folder
from megatron_mmbert.data.preprocess.output_folder import staging_folder
from megatron_mmbert.utils.errors import UserError


def test_workers_of_a_killed_command_are_waited_for_and_a_living_one_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The workers have the lock of their parent until they miss it."""
    (tmp_path / ".store.partial").mkdir()
    with (tmp_path / ".store.partial/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        monkeypatch.setattr(output_folder, "_ORPHANS_SECONDS", 0.1)
        with (
            pytest.raises(UserError, match="another command is making it"),
            staging_folder(tmp_path / "store", lambda error: False),
        ):
            pass
        monkeypatch.setattr(output_folder, "_ORPHANS_SECONDS", 20.0)
        release = threading.Timer(0.3, fcntl.flock, (lock, fcntl.LOCK_UN))
        release.start()
        with staging_folder(tmp_path / "store", lambda error: False) as folder:
            assert folder.is_dir()
        release.join()
    assert not (tmp_path / ".store.partial").exists()
