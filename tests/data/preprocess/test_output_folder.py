"""The folder in which a store is made: whose it is."""

from __future__ import annotations

import errno
import fcntl
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_mmbert.data.preprocess import output_folder
from megatron_mmbert.data.preprocess.output_folder import print_skipped, staging_folder
from megatron_mmbert.data.preprocess.run import PreprocessJob, merge, preprocess, preprocess_partition
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.data.store.verify import verify_store
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


def test_nothing_fails_after_the_output_has_its_name(
    corpus: Path,
    tokenizer_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is left to do then (removing, reporting) meets errors: the store is whole, and the command says so."""
    bad = tmp_path / "in"
    shutil.copytree(corpus, bad)
    with (bad / "ell_Grek.jsonl").open("a") as file:
        file.write("no JSON\n")
    job = PreprocessJob((bad,), tokenizer_file, tmp_path / "store", skip_bad=True)
    parts = [replace(job, output=tmp_path / f"p{number}", partition=(number, 2)) for number in (1, 2)]

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(output_folder, "remove_folder", lambda path: None)
        patch.setattr(Store, "open", refuse)
        preprocess(job)
        for part in parts:
            preprocess_partition(part)
        merge([part.output for part in parts], tmp_path / "merged")
    assert capsys.readouterr().err.count("could not be removed; remove it") == 4
    for name in ("store", "merged"):
        assert list(verify_store(tmp_path / name)) == []


def test_a_list_of_bad_lines_that_cannot_be_read_is_no_failure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_skipped(tmp_path / "gone", 7)
    assert capsys.readouterr().err.startswith("skipped 7 bad lines, all listed in ")
