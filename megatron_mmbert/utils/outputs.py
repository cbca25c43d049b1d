"""The one way a command writes its output: whole or not at all, and never over anything that is not its own kind.

An output is written under a staging name beside its final one, synced, and published by one rename. What is there
already is replaced only when it is recognized as the same kind of output (:class:`OutputKind`) and nothing else lies
in it; an input, a folder that holds an input, a device, a pipe, or a place inside another output is refused before the
work begins. The check is repeated under a lock when the work is done, so that of two equal commands the second does not
replace the first's output unasked.

A staging name carries host, process and a random number, and its writer holds a lock on it: what a killed command left
is told apart from what another one is writing, and removed by the next command of the same output.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import secrets
import socket
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import make_folders, remove_empty, remove_folder, sync, sync_name

_AT_CURRENT_FOLDER, _EXCHANGE = -100, 2  # of renameat2(2)
_HOST = re.sub(r"[^A-Za-z0-9_]", "_", socket.gethostname()) or "host"
_SHOWN = 3
_STAGED: set[Path] = set()
"""Staging files and folders that this process is making."""


@dataclass(frozen=True)
class OutputKind:
    """A kind of output, and how one is recognized.

    Attributes:
        name: what messages call it, with its article.
        required: files (or folders) of an output folder that are always there; empty for a kind that is one file.
        own: patterns of all that may lie in it, relative to it; ``*`` also matches ``/``.
        recognizes: looks into a file, or into the folder's content, where names are not enough.
    """

    name: str
    required: tuple[str, ...] = ()
    own: tuple[str, ...] = ()
    recognizes: Callable[[Path], bool] = lambda path: True

    def foreign_content(self, path: Path) -> str | None:
        """Return why ``path`` is not an output of this kind, or None."""
        if not self.required:
            return None if path.is_file() and self.recognizes(path) else f"is not {self.name}"
        if not path.is_dir():
            return "is a file"
        names = sorted(entry.relative_to(path).as_posix() for entry in path.rglob("*") if not entry.is_dir())
        if not names and not any(path.iterdir()):
            return None
        if not all((path / name).exists() for name in self.required) or not self.recognizes(path):
            return f"is not {self.name}"
        others = [name for name in names if not any(fnmatchcase(name, pattern) for pattern in self.own)]
        if others:
            more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
            return f"holds other things than {self.name} ({', '.join(others[:_SHOWN])}{more})"
        return None


def check_output(path: Path, kind: OutputKind, inputs: Sequence[Path] = (), overwrite: bool = False) -> Path:
    """Return where an output called ``path`` is written, links resolved; for the start of a command, before its work.

    Args:
        inputs: files and folders that the command reads.
        overwrite: whether an output of the same kind may be replaced.

    Raises:
        UserError: there is something else, an output that may not be replaced, an input, or another output around it.
    """
    target = _resolved(path)
    for source in inputs:
        read = _resolved(source)
        if target in (read, *read.parents):
            raise UserError(f"--output {path}: is, or holds, the input {source}; choose another --output")
    _check_surroundings(path, target)
    _check_free(path, target, kind, overwrite)
    return target


def check_run_folder(folder: Path) -> None:
    """Check that a folder into which training writes is no checkpoint, store or model, and lies in none.

    Raises:
        UserError: it is, or does.
    """
    target = _resolved(folder)
    _check_surroundings(folder, target)
    if _is_whole(target):
        raise UserError(f"{folder}: is an output that must hold nothing else; choose another --output")


def output_folder(
    path: Path, kind: OutputKind, inputs: Sequence[Path] = (), overwrite: bool = False
) -> AbstractContextManager[Path]:
    """Yield a staging folder that becomes ``path`` when the block ends, and is removed when it raises.

    Raises:
        UserError: as :func:`check_output`, at the start or when the output is published.
    """
    return _output(path, kind, inputs, overwrite, is_folder=True)


def output_file(
    path: Path, kind: OutputKind, inputs: Sequence[Path] = (), overwrite: bool = False
) -> AbstractContextManager[Path]:
    """Yield a staging file, as :func:`output_folder` yields a folder."""
    return _output(path, kind, inputs, overwrite, is_folder=False)


@contextmanager
def _output(path: Path, kind: OutputKind, inputs: Sequence[Path], overwrite: bool, is_folder: bool) -> Iterator[Path]:
    target = check_output(path, kind, inputs, overwrite)
    with _staging(target, is_folder) as staging:
        yield staging
        _finish(staging)
        _publish(path, target, staging, kind, overwrite)


def remove_leftovers(target: Path) -> None:
    """Remove what killed commands of this host left beside ``target``, and put back an output they had moved away."""
    for left in target.parent.glob(f".{_escaped(target.name)}.{_HOST}-*.tmp"):
        if _is_abandoned(left):
            remove_folder(left) if left.is_dir() else left.unlink(missing_ok=True)
    for old in target.parent.glob(f".{_escaped(target.name)}.{_HOST}-*.old"):
        if _is_abandoned(old):
            if target.exists():
                remove_folder(old) if old.is_dir() else old.unlink(missing_ok=True)
            else:
                os.rename(old, target)


def _resolved(path: Path) -> Path:
    """Return ``path`` without links; its last part need not exist."""
    if str(path) in ("", "."):
        path = Path.cwd()
    try:
        return path.resolve()
    except (OSError, RuntimeError):  # a loop of links: RuntimeError before Python 3.13
        raise UserError(f"{path}: a loop of symbolic links; name another path") from None


def _check_surroundings(path: Path, target: Path) -> None:
    if target == target.parent:
        raise UserError(f"--output {path}: is the root of the file system; choose another --output")
    for around in target.parents:
        if around.exists() and not around.is_dir():
            raise UserError(f"--output {path}: {around} is a file; choose another --output")
        if _is_whole(around):
            raise UserError(
                f"--output {path}: lies inside {around}, which must hold nothing else; choose another --output"
            )


def _is_whole(folder: Path) -> bool:
    """Return whether ``folder`` is a checkpoint, a store, a partition or a model: what has a list of its files."""
    if (folder / "checkpoint.json").is_file():
        return True
    if (folder / "config.json").is_file() and any(folder.glob("model*.safetensors")):
        return True
    for name in ("manifest.json", "part.json"):
        try:
            with (folder / name).open("rb") as file:
                if b"megatron_mmbert" in file.read(4096):
                    return True
        except OSError:
            continue
    return False


def _check_free(path: Path, target: Path, kind: OutputKind, overwrite: bool) -> None:
    try:
        mode = target.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise UserError(f"{path}: is neither a file nor a folder; choose another --output")
    foreign = kind.foreign_content(target)
    if foreign is not None:
        raise UserError(f"{path}: {foreign}; choose another --output")
    if not overwrite and (target.is_file() or any(target.iterdir())):
        raise UserError(f"{path}: already exists; choose another --output or pass --overwrite")


@contextmanager
def _staging(target: Path, folder: bool) -> Iterator[Path]:
    """Make a staging file or folder beside ``target`` and hold its lock."""
    made = make_folders(target.parent)
    try:
        staging = target.with_name(f".{target.name}.{_HOST}-{os.getpid()}-{secrets.token_hex(4)}.tmp")
        lock = None
        try:
            with _locked(target.parent):
                # Under the parent's lock, so that no other command sees a staging name whose lock is not yet held.
                remove_leftovers(target)
                staging.mkdir() if folder else staging.touch(exist_ok=False)
                lock = os.open(staging, os.O_RDONLY)
                _lock(lock)
            _STAGED.add(staging)
            yield staging
        finally:
            _STAGED.discard(staging)
            if lock is not None:
                os.close(lock)
            _remove(staging)
    except BaseException:
        remove_empty(made)
        raise


def _remove(staging: Path) -> None:
    """Remove a staging file or folder if it is there still, an empty folder also where too few files can be open."""
    if not os.path.lexists(staging):
        return
    if not staging.is_dir():
        staging.unlink(missing_ok=True)
        return
    remove_folder(staging)
    with suppress(OSError):
        staging.rmdir()


def _finish(staging: Path) -> None:
    """Give everything the umask's mode (some writers make files that only their owner can read) and sync it."""
    umask = os.umask(0)
    os.umask(umask)
    everything = [staging, *staging.rglob("*")] if staging.is_dir() else [staging]
    for entry in everything:
        entry.chmod((0o777 if entry.is_dir() else 0o666) & ~umask)
        sync(entry)


def _publish(path: Path, target: Path, staging: Path, kind: OutputKind, overwrite: bool) -> None:
    """Rename ``staging`` to ``target`` if it is still free, under a lock on the folder of both."""
    with _locked(target.parent):
        _check_free(path, target, kind, overwrite)
        if not target.exists():
            os.rename(staging, target)
        elif target.is_file():
            os.replace(staging, target)
        elif not _exchange(staging, target):
            # A file system without an atomic exchange: a crash in between leaves the old output under its .old name.
            old = staging.with_suffix(".old")
            os.rename(target, old)
            os.rename(staging, target)
            remove_folder(old)
        sync_name(target)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if call(_AT_CURRENT_FOLDER, os.fsencode(one), _AT_CURRENT_FOLDER, os.fsencode(other), _EXCHANGE) == 0:
        return True
    problem = ctypes.get_errno()
    if problem in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(problem, os.strerror(problem), str(other))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the lock on ``folder``; a staging folder of this process, in which an output is made, is locked already."""
    if folder in _STAGED:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        _lock(descriptor, wait=True)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, wait: bool = False) -> bool:
    """Lock an open file or folder against other processes; False where another has it. Disks without locks: True."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def _is_abandoned(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        return _lock(descriptor)
    finally:
        os.close(descriptor)


def _escaped(name: str) -> str:
    """Return ``name`` as a literal part of a glob pattern."""
    return re.sub(r"([\[\]*?])", r"[\1]", name)
