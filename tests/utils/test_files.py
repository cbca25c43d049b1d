"""Whole outputs or none."""

from __future__ import annotations

from pathlib import Path

import pytest

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import atomic_file, atomic_folder, check_output, read_json, write_json


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


def test_a_folder_appears_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "folder"
    with atomic_folder(path) as staging:
        (staging / "a").write_text("1")
        assert not path.exists()
    assert (path / "a").read_text() == "1"
    assert [each.name for each in path.parent.iterdir()] == ["folder"]


def test_a_folder_is_only_overwritten_when_asked(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "old").write_text("1")
    with pytest.raises(UserError, match=r"folder: already exists; choose another --output or pass --overwrite"):
        with atomic_folder(path):
            pytest.fail("must refuse before the work, not after")
    with pytest.raises(ZeroDivisionError), atomic_folder(path, overwrite=True) as staging:
        (staging / "new").write_text("2")
        raise ZeroDivisionError
    assert [each.name for each in path.iterdir()] == ["old"]
    with atomic_folder(path, overwrite=True) as staging:
        (staging / "new").write_text("2")
    assert [each.name for each in path.iterdir()] == ["new"]
    assert [each.name for each in tmp_path.iterdir()] == ["folder"]


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


def test_check_output(tmp_path: Path) -> None:
    path = tmp_path / "run" / "step-00000001"
    path.mkdir(parents=True)
    check_output(tmp_path / "new", (path,), overwrite=False)
    with pytest.raises(UserError, match="--overwrite"):
        check_output(tmp_path, (), overwrite=False)
    for output in (path, tmp_path / "run", tmp_path):
        with pytest.raises(UserError, match="is, or holds"):
            check_output(output, (path,), overwrite=True)
