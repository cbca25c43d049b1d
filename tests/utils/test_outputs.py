"""Outputs appear whole or not at all, and replace nothing but their own kind."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from megatron_mmbert.utils import outputs
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.outputs import OutputKind, check_output, check_run_folder, output_file, output_folder

FOLDER = OutputKind("a thing", ("thing.json",), ("thing.json", "part-*", "deep/*"))
FILE = OutputKind("a list", recognizes=lambda path: path.read_bytes().startswith(b"list"))


def write(path: Path, text: str = "new", overwrite: bool = False, inputs: tuple[Path, ...] = ()) -> None:
    with output_folder(path, FOLDER, inputs, overwrite) as folder:
        (folder / "thing.json").write_text(text)
        (folder / "deep").mkdir()
        (folder / "deep" / "part").write_text(text)


def tree(folder: Path) -> dict[str, str]:
    return {p.relative_to(folder).as_posix(): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_whole_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), output_folder(tmp_path / "a" / "b" / "out", FOLDER) as folder:
        (folder / "thing.json").write_text("half")
        raise ZeroDivisionError
    assert list(tmp_path.iterdir()) == [], "the folders made for it are gone too"
    write(tmp_path / "out")
    assert tree(tmp_path) == {"out/thing.json": "new", "out/deep/part": "new"}


@pytest.mark.parametrize("folder", [True, False])
def test_nothing_is_left_where_the_staging_cannot_be_opened(
    folder: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, make = os.open, output_folder if folder else output_file

    def full(path: Any, *arguments: Any, **options: Any) -> int:
        if str(path).endswith(".tmp"):
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return original(path, *arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="Too many open files"):
        patch.setattr(os, "open", full)
        with make(tmp_path / "new" / "out", FOLDER if folder else FILE):
            raise AssertionError("not reached")
    assert list(tmp_path.iterdir()) == []


def test_own_kind_is_replaced_only_when_asked(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    with pytest.raises(UserError, match="already exists; choose another --output or pass --overwrite"):
        write(tmp_path / "out")
    write(tmp_path / "out", "new", overwrite=True)
    assert tree(tmp_path) == {"out/thing.json": "new", "out/deep/part": "new"}


@pytest.mark.parametrize("can_exchange", [True, False])
def test_replacing_on_any_file_system(tmp_path: Path, can_exchange: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not can_exchange:
        monkeypatch.setattr(outputs, "_exchange", lambda one, other: False)
    write(tmp_path / "out", "old")
    write(tmp_path / "out", "new", overwrite=True)
    assert tree(tmp_path) == {"out/thing.json": "new", "out/deep/part": "new"}


def test_a_crash_while_replacing_is_undone(tmp_path: Path) -> None:
    write(tmp_path / "out", "old")
    old = tmp_path / f".out.{outputs._HOST}-1-00000000.old"
    (tmp_path / "out").rename(old)
    with pytest.raises(UserError, match="already exists"):
        write(tmp_path / "out")
    check_output(tmp_path / "out", FOLDER, overwrite=True)
    assert tree(tmp_path) == {"out/thing.json": "old", "out/deep/part": "old"}


def test_foreign_folders_stay(tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "photos").mkdir(parents=True)
    (home / "thesis.tex").write_text("x")
    for content in ("", "thing.json"):
        if content:
            (home / content).write_text("{}")
        before = tree(tmp_path)
        with pytest.raises(UserError, match=r"home: (is not a thing|holds other things than a thing \(thesis.tex\))"):
            write(home, overwrite=True)
        assert tree(tmp_path) == before and (home / "photos").is_dir()


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert (tmp_path / "out/thing.json").is_file()


def test_inputs_stay(tmp_path: Path) -> None:
    source = tmp_path / "corpus"
    write(source, "text")
    for output in (source, tmp_path, tmp_path / "link"):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(source)
        with pytest.raises(UserError, match="is, or holds, the input"):
            write(output, overwrite=True, inputs=(source,))
    assert tree(source) == {"thing.json": "text", "deep/part": "text"}


def test_links_are_resolved(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    write(tmp_path / "out")
    assert (tmp_path / "out").is_symlink() and (tmp_path / "disk/real/thing.json").is_file()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(UserError, match="loop of symbolic links"):
        write(tmp_path / "loop")


def test_devices_pipes_and_roots_are_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/null")):
        with pytest.raises(UserError, match="neither a file nor a folder"):
            write(path, overwrite=True)
        with pytest.raises(UserError, match="neither a file nor a folder"), output_file(path, FILE, overwrite=True):
            pass
    with pytest.raises(UserError, match="root of the file system"):
        write(Path("/"), overwrite=True)
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="file is a file"):
        write(tmp_path / "file" / "out")
    with pytest.raises(UserError, match="is a file"):
        write(tmp_path / "file", overwrite=True)


@pytest.mark.parametrize(
    ("name", "content"), [("checkpoint.json", "{}"), ("manifest.json", '{"format": "megatron_mmbert token store"}')]
)
def test_nothing_is_written_inside_another_output(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / name).write_text(content)
    with pytest.raises(UserError, match="lies inside"):
        write(tmp_path / "whole" / "deeper" / "out")
    (tmp_path / "whole" / name).write_text("{}") if name == "manifest.json" else (tmp_path / "whole" / name).unlink()
    write(tmp_path / "whole" / "deeper" / "out")


def test_an_output_is_made_within_another(tmp_path: Path) -> None:
    with output_folder(tmp_path / "out", FOLDER) as staging:
        (staging / "thing.json").write_text("{}")
        with output_file(staging / "part-1", FILE) as part:
            part.write_text("list")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["part-1", "thing.json"]


def test_a_run_is_not_begun_in_another_output(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("{}")
    for folder in (tmp_path, tmp_path / "phase"):
        with pytest.raises(UserError, match="hold nothing else"):
            check_run_folder(folder)
    (tmp_path / "checkpoint.json").unlink()
    check_run_folder(tmp_path)


def test_files(tmp_path: Path) -> None:
    def put(text: str, overwrite: bool = False) -> None:
        with output_file(tmp_path / "a.txt", FILE, overwrite=overwrite) as staging:
            staging.write_text(text)

    put("list 1")
    with pytest.raises(UserError, match="already exists"):
        put("list 2")
    put("list 2", overwrite=True)
    (tmp_path / "a.txt").write_text("a recipe")
    with pytest.raises(UserError, match="is not a list"):
        put("list 3", overwrite=True)
    assert tree(tmp_path) == {"a.txt": "a recipe"}


def test_two_at_once(tmp_path: Path) -> None:
    """The one that ends second sees the first's output and leaves it."""
    first_done, ended = threading.Event(), []

    def second() -> None:
        try:
            with output_folder(tmp_path / "out", FOLDER) as folder:
                (folder / "thing.json").write_text("second")
                first_done.wait(10)
        except UserError as error:
            ended.append(str(error))

    thread = threading.Thread(target=second)
    thread.start()
    while not list(tmp_path.glob(".out.*.tmp")):
        pass
    write(tmp_path / "out", "first")
    first_done.set()
    thread.join()
    assert ended and "already exists" in ended[0]
    assert tree(tmp_path) == {"out/thing.json": "first", "out/deep/part": "first"}


def test_leftovers_of_the_dead_are_removed_and_of_the_living_are_not(tmp_path: Path) -> None:
    script = (
        "import os, signal, sys\nfrom pathlib import Path\n"
        "from megatron_mmbert.utils.outputs import OutputKind, output_folder\n"
        "with output_folder(Path(sys.argv[1]), OutputKind('a thing', ('thing.json',))) as folder:\n"
        "    (folder / 'thing.json').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    ).replace("\n", chr(10))
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], check=False)
    assert len(list(tmp_path.glob(".out.*.tmp"))) == 1
    with output_folder(tmp_path / "out", FOLDER) as living:
        assert list(tmp_path.glob(".out.*.tmp")) == [living]
        write(tmp_path / "out")
        assert living.is_dir()
        (living / "thing.json").write_text("x")
        (tmp_path / "out").rename(tmp_path / "moved")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["moved", "out"]


def test_modes_are_those_of_the_umask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        with output_folder(tmp_path / "out", FOLDER) as folder:
            (folder / "thing.json").touch(mode=0o600)
        with output_file(tmp_path / "list", FILE) as staging:
            staging.write_text("list")
    finally:
        os.umask(old)
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "out/thing.json").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "list").stat().st_mode & 0o777 == 0o640
