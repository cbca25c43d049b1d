"""Every file once; nothing passed over in silence; links, loops, and what cannot be read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from megatron_mmbert.data.text.inputs.folder_walk import walk
from megatron_mmbert.utils.errors import UserError


def write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("x\n")
    return path


def test_each_file_once_with_its_folders(tmp_path: Path) -> None:
    files = [write(tmp_path / name) for name in ("b/z.txt", "b/deep/a.jsonl", "c.jsonl.gz")]
    found = walk([tmp_path, tmp_path / "b", files[2]])
    assert [file.path for file in found.files] == sorted(files)
    assert found.files[0].folders == (tmp_path.name, "b", "deep")


def test_what_is_not_read_is_counted(tmp_path: Path) -> None:
    for name in "a.jsonl b.JSONL c.jsonl.GZ d.ndjson e.jsonl.xz f.txt.bz2 g.json.gz h.parquet".split():
        write(tmp_path / name)
    for name in ("x.json", "y.json", "README.md", "z.warc.gz", "LICENSE", ".k.jsonl"):
        write(tmp_path / name)
    found = walk([tmp_path])
    assert len(found.files) == 8
    os.mkfifo(tmp_path / "pipe.jsonl")
    found = walk([tmp_path])
    assert found.not_read.pop("pipe or device") == 1
    assert +found.not_read == {".json": 2, ".md": 1, ".warc.gz": 1, "without ending": 1, "hidden": 1}


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    write(outside / "deu_Latn.jsonl")
    write(inside / "fra_Latn.jsonl")
    (inside / "more").symlink_to(outside)
    (inside / "again").symlink_to(inside)
    (outside / "back").symlink_to(inside)
    (inside / "ita_Latn.jsonl").symlink_to(inside / "fra_Latn.jsonl")
    found = walk([inside])
    assert [file.path.name for file in found.files] == ["fra_Latn.jsonl", "deu_Latn.jsonl"]
    assert found.files[1].folders == ("in", "more")
    assert +found.not_read == {"second path to a folder": 2, "second path to a file": 1}


def test_without_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl"), write(tmp_path / "store/skipped.jsonl")
    assert [file.path.name for file in walk([tmp_path], tmp_path / "store").files] == ["a.jsonl"]


@pytest.mark.parametrize(
    "make", ["nothing", "pipe", "empty folder", "unknown kind", "dangling", "self", "newline", "surrogate", "loop"]
)
def test_refused_in_one_line(make: str, tmp_path: Path) -> None:
    path = tmp_path / "in"
    if make == "empty folder":
        path.mkdir()
    elif make == "unknown kind":
        path = write(tmp_path / "in.pdf")
    elif make in ("dangling", "self"):
        path.mkdir()
        (path / "a.jsonl").symlink_to(path / ("b.jsonl" if make == "dangling" else "a.jsonl"))
    elif make == "pipe":
        path = tmp_path / "in.jsonl"
        os.mkfifo(path)
    elif make == "loop":
        path.symlink_to(path)
    elif make != "nothing":
        write(path / "a\nb.jsonl" if make == "newline" else Path(os.fsdecode(os.fsencode(path) + b"/a\xff.jsonl")))
    with pytest.raises(UserError, match="in") as caught:
        walk([path])
    assert str(caught.value).isprintable()


def test_unreadable_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.jsonl")

    def refuse(path: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("megatron_mmbert.data.text.inputs.folder_walk.os.scandir", refuse)
    with pytest.raises(UserError, match=r"cannot be read .Permission denied.; make it readable"):
        walk([tmp_path])


def test_spaces_and_letters_of_any_script_are_names(tmp_path: Path) -> None:
    path = write(tmp_path / "mein Korpus/føroyskt mál.jsonl")
    assert [file.path for file in walk([tmp_path]).files] == [path]
