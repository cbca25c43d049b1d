"""Builds the preloaded library that makes file operations fail and records what a loss of power may undo."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

SOURCE = Path(__file__).with_name("inject.c")
KINDS = ("open", "read", "write", "rename", "fsync", "mkdir", "unlink")
ERRORS = (errno.EIO, errno.EACCES, errno.ENOSPC, errno.EMFILE, errno.EINTR)
KILLS = (signal.SIGKILL, signal.SIGTERM)


@dataclass(frozen=True)
class Fault:
    """The ``nth`` operation of a kind fails with ``error``, or kills the process by the signal ``kills``."""

    kind: str
    nth: int
    error: int = 0
    kills: int = 0

    def __str__(self) -> str:
        what = signal.Signals(self.kills).name if self.kills else errno.errorcode[self.error]
        return f"{self.kind} {self.nth}: {what}"


def build() -> Path:
    """Compile the library once per content of its source; returns its path."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    library = Path(tempfile.gettempdir()) / f"mmbert-inject-{digest}.so"
    if not library.exists():
        made = library.with_suffix(f".{os.getpid()}.tmp")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(made), str(SOURCE), "-ldl"], check=True)
        made.rename(library)
    return library


def arm(library: ctypes.CDLL, folder: Path, fault: Fault | None) -> None:
    """Arm ``fault`` for operations below ``folder``; without a fault, only count."""
    kind = KINDS.index(fault.kind) if fault else 0
    library.fault_arm(
        bytes(folder),
        kind,
        ctypes.c_long(fault.nth if fault else 0),
        fault.error if fault else 0,
        fault.kills if fault else 0,
    )


def record(library: ctypes.CDLL, folder: Path) -> int:
    """Write what a loss of power may undo to ``folder/record``, and keep there what is replaced or removed.

    Returns the open file of the record.
    """
    (folder / "kept").mkdir(parents=True)
    descriptor = os.open(folder / "record", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    library.fault_record(descriptor, bytes(folder / "kept"))
    return descriptor
