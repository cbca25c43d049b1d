"""What is done to a command's files: inputs damaged, and things that lie where its output is to go."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

DAMAGES = (
    "first byte",
    "middle byte",
    "last byte",
    "half",
    "cut by one",
    "empty",
    "zeros",
    "tail of zeros",
    "longer",
    "random bytes",
    "other kind",
    "missing",
    "folder",
    "unreadable",
)
EXISTING = (
    "own",
    "own, overwrite",
    "empty folder",
    "foreign folder",
    "foreign file",
    "pipe",
    "device",
    "link to foreign",
    "dangling link",
    "loop",
    "parent is a file",
)
AROUND_INPUTS = ("input", "inside input", "parent of input")
_UNREADABLE = "/proc/self/mem"  # opens, and gives EIO


def damage(path: Path, how: str) -> Callable[[], None]:
    """Harm an input; returns the function that undoes it."""
    kept = path.with_name(f"{path.name}.kept")
    state = path.lstat()
    path.rename(kept)
    content = kept.read_bytes()
    if how == "folder":
        path.mkdir()
    elif how == "unreadable":
        path.symlink_to(_UNREADABLE)
    elif how != "missing":
        path.write_bytes(damaged(content, how))

    def undo() -> None:
        remove(path)
        kept.rename(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    return undo


def damaged(content: bytes, how: str) -> bytes:
    """Return the content of a file after that has happened to it."""
    size = len(content)
    if how in ("first byte", "middle byte", "last byte"):
        at = {"first byte": 0, "middle byte": size * 2 // 3, "last byte": size - 1}[how]
        return content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :] if content else b""
    return {
        "half": content[: size // 2],
        "cut by one": content[:-1],
        "empty": b"",
        "zeros": bytes(size),
        "tail of zeros": content[: size * 3 // 4] + bytes(size - size * 3 // 4),
        "longer": content + b"\x00garbage\xff",
        "random bytes": random.Random(size).randbytes(max(64, size // 3)),
        "other kind": b'{"some": "other file", "n": [1, 2, 3]}\n',
    }[how]


def put_at_output(output: Path, what: str) -> None:
    """Put one of ``EXISTING`` (other than the command's own output) where ``output`` is to go."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if what != "empty folder" or output.is_dir():
        remove(output)
    if what == "empty folder":
        output.mkdir()
    elif what == "foreign folder":
        _make_home(output)
    elif what == "foreign file":
        output.write_text("a letter")
    elif what == "pipe":
        os.mkfifo(output)
    elif what == "device":
        output.symlink_to("/dev/null")
    elif what == "link to foreign":
        _make_home(output.with_name("home"))
        output.symlink_to(output.with_name("home"))
    elif what == "dangling link":
        output.symlink_to(output.with_stem("elsewhere"))
    elif what == "loop":
        output.symlink_to(output)
    elif what == "parent is a file":
        remove(output.parent)
        output.parent.write_text("a file")


def _make_home(folder: Path) -> None:
    (folder / "photos").mkdir(parents=True)
    (folder / "thesis.tex").write_text("years of work")


def remove(path: Path) -> None:
    """Remove whatever ``path`` is; nothing is fine too."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
