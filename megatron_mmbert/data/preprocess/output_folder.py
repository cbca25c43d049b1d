"""The life of an output folder: is it made already, may it be replaced, where is it made, what is said at its end."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_mmbert.data.preprocess.partition_writer import SKIPPED_NAME
from megatron_mmbert.data.store.manifest import MANIFEST_NAME, PARTITION_NAME, REMEDY, load_manifest
from megatron_mmbert.data.text.records import BadLine
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import make_folders, read_json, remove_folder
from megatron_mmbert.utils.output_kinds import PARTITION, STORE
from megatron_mmbert.utils.outputs import check_output

MADE_FROM_NAME = "made_from.json"
"""The record of an output's settings and inputs beside it."""

_LINES_SHOWN = 5
_ORPHANS_SECONDS = 3.0


def is_made(output: Path, made_from: dict[str, Any]) -> bool:
    """Tell if ``output`` is the store, or the partition, that ``made_from`` describes.

    Raises:
        UserError: it is another one.
    """
    if not (output / MANIFEST_NAME).exists() and not (output / PARTITION_NAME).exists():
        return False
    before = read_json(output / MADE_FROM_NAME, "record of the inputs", f"pass --overwrite, or {REMEDY}")
    before = before if isinstance(before, dict) else {}
    other = [key for key in before.keys() | made_from.keys() if before.get(key) != made_from.get(key)]
    if other:
        named = ", ".join(key.replace("_", " ") for key in sorted(other))
        raise UserError(f"{output}: holds a store made with other {named}; choose another --output or pass --overwrite")
    return True


def check_replaceable(output: Path, inputs: Iterable[Path]) -> Path:
    """Return where the output is written, links resolved; it may replace a store, a partition or an empty folder.

    Raises:
        UserError: something else is there, or an input.
    """
    kind = PARTITION if (output / PARTITION_NAME).exists() else STORE
    target = check_output(output, kind, list(inputs), overwrite=True)
    if (target / MANIFEST_NAME).exists():
        load_manifest(target)
    return target


@contextmanager
def staging_folder(output: Path, keep: Callable[[BaseException], bool]) -> Iterator[Path]:
    """Yield ``.NAME.partial`` beside ``output``, locked against a second command; removed at the end.

    After an exception it stays if ``keep`` says so, and after a kill in any case: the same command, started again,
    finds it and resumes.

    Raises:
        UserError: another command is making this output.
    """
    make_folders(output.parent)
    folder = output.with_name(f".{output.name}.partial")
    folder.mkdir(exist_ok=True)
    lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT)
    try:
        if not _locks_soon(lock):
            raise UserError(f"{output}: another command is making it; wait for it, or end it")
        try:
            yield folder
        except BaseException as error:
            if not keep(error):
                remove_folder(folder)
            raise
        remove_folder(folder)
        if folder.exists():  # no failure: the output has its name by now
            print(f"warning: {folder}: could not be removed; remove it", file=sys.stderr)
    finally:
        os.close(lock)


def _locks_soon(lock: int) -> bool:
    """Lock an open file. Workers of a command that was killed hold its lock until they miss it, a second later."""
    deadline = time.monotonic() + _ORPHANS_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        except OSError:
            return True  # a disk without locks
        else:
            return True


def copy_skipped(partitions: Iterable[Path], folder: Path) -> None:
    """Write the bad lines of all partitions as one list, if there are any."""
    with (folder / SKIPPED_NAME).open("wb") as together:
        for partition in partitions:
            with (partition / SKIPPED_NAME).open("rb") as record:
                shutil.copyfileobj(record, together)
        empty = not together.tell()
    if empty:
        (folder / SKIPPED_NAME).unlink()


def print_skipped(output: Path, count: int) -> None:
    """Print on stderr how many lines were left out, and the first of them."""
    if not count:
        return
    print(f"skipped {count} bad lines, all listed in {output / SKIPPED_NAME}:", file=sys.stderr)
    # The output is whole by now: an error of reading these lines is none of the command.
    with suppress(OSError), (output / SKIPPED_NAME).open(encoding="utf-8") as record:
        for line in islice(record, _LINES_SHOWN):
            print(f"  {BadLine(**json.loads(line))}", file=sys.stderr)
    if count > _LINES_SHOWN:
        print("  ...", file=sys.stderr)


def print_left_out(count: int) -> None:
    """Print on stderr how many documents did not meet the user's conditions."""
    if count:
        print(f"left out {count:,} documents that do not meet --where", file=sys.stderr)
