"""The folder beside an output in which it is made, found again by whoever runs the same command after a kill."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from megatron_mmbert.utils.errors import UserError


@contextmanager
def working_folder(output: Path, keep: Callable[[BaseException], bool]) -> Iterator[Path]:
    """Yield ``.NAME.partial`` beside ``output``, locked against a second command; removed at the end.

    After an exception it stays if ``keep`` says so, and after a kill in any case.

    Raises:
        UserError: another command is making this output.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    folder = output.with_name(f".{output.name}.partial")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{output}: another command is making it; wait for it, or end it") from None
        except OSError:
            pass  # a disk without locks
        try:
            yield folder
        except BaseException as error:
            if not keep(error):
                shutil.rmtree(folder, ignore_errors=True)
            raise
        shutil.rmtree(folder)
    finally:
        os.close(lock)
