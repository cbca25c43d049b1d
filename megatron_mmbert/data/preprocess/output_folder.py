"""What may be where a store is to be: nothing, this store, or one that may be replaced."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any

from megatron_mmbert.data.preprocess.partition_writer import PART_NAME, SKIPPED_NAME
from megatron_mmbert.data.store.manifest import MANIFEST_NAME, REMEDY, load_manifest
from megatron_mmbert.data.text.records import BadLine
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

MADE_FROM_NAME = "made_from.json"
_SHOWN = 5


def is_done(output: Path, made_from: dict[str, Any]) -> bool:
    """Whether ``output`` is the store, or the part, that ``made_from`` describes.

    Raises:
        UserError: it is another one.
    """
    if not (output / MANIFEST_NAME).exists() and not (output / PART_NAME).exists():
        return False
    before = read_json(output / MADE_FROM_NAME, "record of the inputs", f"pass --overwrite, or {REMEDY}")
    before = before if isinstance(before, dict) else {}
    other = [key for key in before.keys() | made_from.keys() if before.get(key) != made_from.get(key)]
    if other:
        named = ", ".join(key.replace("_", " ") for key in sorted(other))
        raise UserError(f"{output}: holds a store made with other {named}; choose another --output or pass --overwrite")
    return True


def check_replaceable(output: Path) -> None:
    """Refuse to replace anything but a store, a part or an empty folder: --overwrite must not delete a home directory.

    Raises:
        UserError: something else is there.
    """
    if output.exists() and not output.is_dir():
        raise UserError(f"{output}: is a file; choose another --output")
    if not output.exists() or not any(output.iterdir()) or (output / PART_NAME).exists():
        return
    if not (output / MANIFEST_NAME).exists():
        raise UserError(f"{output}: exists and is no token store; choose another --output")
    load_manifest(output)


def copy_skipped(parts: Iterable[Path], folder: Path) -> None:
    """One list of the bad lines of all parts, if there are any."""
    with (folder / SKIPPED_NAME).open("wb") as together:
        for part in parts:
            with (part / SKIPPED_NAME).open("rb") as record:
                shutil.copyfileobj(record, together)
        empty = not together.tell()
    if empty:
        (folder / SKIPPED_NAME).unlink()


def print_skipped(output: Path, count: int) -> None:
    """Say on stderr how many lines were left out, and the first of them."""
    if not count:
        return
    print(f"skipped {count} bad lines, all listed in {output / SKIPPED_NAME}:", file=sys.stderr)
    with (output / SKIPPED_NAME).open(encoding="utf-8") as record:
        for line in islice(record, _SHOWN):
            print(f"  {BadLine(**json.loads(line))}", file=sys.stderr)
    if count > _SHOWN:
        print("  ...", file=sys.stderr)
