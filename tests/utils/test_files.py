"""Whole outputs or none."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import atomic_file, read_json, remove_folder, write_json


def test_a_file_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"
    with atomic_file(path) as staging:
        staging.write_text("half")
        assert not path.exists()
        assert staging.parent == path.parent, "a rename over file systems would be no rename"
    assert path.read_text() == "half"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_file(path) as staging:
        staging.write_text("new")
        raise ZeroDivisionError
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_json_round_trip_keeps_every_script(tmp_path: Path) -> None:
    value = {"ქართული": [1, 2.5, None], "a": {"b": "ኢትዮጵያ"}}
    write_json(tmp_path / "v.json", value)
    assert read_json(tmp_path / "v.json", "value", "write it") == value
    assert "ქართული" in (tmp_path / "v.json").read_text(encoding="utf-8"), "readable, not escaped"


@pytest.mark.parametrize("damage", [b'{"a": 1', b"\xff\xfe", b""])
def test_damaged_json_is_named(damage: bytes, tmp_path: Path) -> None:
    path = tmp_path / "v.json"
    path.write_bytes(damage)
    with pytest.raises(UserError, match=r"v\.json: damaged manifest \(.*\); write it again"):
        read_json(path, "manifest", "write it again")


def test_missing_json_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"v\.json: no manifest here; name a store"):
        read_json(tmp_path / "v.json", "manifest", "name a store")


def test_an_error_that_passes_leaves_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    scan, errors = os.scandir, [OSError(errno.EMFILE, "too many open files")]

    def scan_later(*arguments: Any) -> Any:
        if errors:
            raise errors.pop()
        return scan(*arguments)

    monkeypatch.setattr(os, "scandir", scan_later)
    remove_folder(tmp_path / "a")
    assert not errors and not (tmp_path / "a").exists()
