"""Allowed ends of a try: the whole output and 0; nothing and 2 with one sentence; nothing and 128 + n."""

from __future__ import annotations

import hashlib
import re
import signal
from dataclasses import dataclass
from pathlib import Path

_STAMP = re.compile(rb"20\d\d-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")
_MEASURED = re.compile(
    rb'"(seconds|data_seconds|tokens_per_second|mfu|time|pid|wrote|stalled|computed)": ?[-0-9.eE"a-z_A-Z, ]+'
)
_UNEQUAL = ("checksums.json", "heartbeat.json", "events.out.*", "made_from.json")
"""Files that hold the time, or checksums of files that do; they must be there."""

Tree = dict[str, str]
"""Relative path -> digest of the content, or what else it is."""


def tree(folder: Path, bits: bool = True) -> Tree:
    """Describe all below ``folder``. ``bits``: by content with times and measurements left out; else by identity."""
    found: Tree = {}
    if not folder.is_symlink() and not folder.exists():
        return found
    for path in [folder, *sorted(folder.rglob("*"))]:
        name = path.relative_to(folder).as_posix()
        state = path.lstat()
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif path.is_file() and bits:
            found[name] = "" if any(Path(name).match(each) for each in _UNEQUAL) else _digest(path)
        else:
            found[name] = f"{state.st_mode:o} {state.st_size} {state.st_mtime_ns} {state.st_ino}"
    return found


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.suffix in (".json", ".jsonl", ".md", ".yaml", ""):
        content = _MEASURED.sub(b"", _STAMP.sub(b"", content))
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Ended:
    """The end of a try.

    Attributes:
        status: as the process gave it; negative: the signal it died of.
        log: what it printed.
        before, after: the trees of the output's folder.
        inputs_changed: names below the inputs that are not as before.
        fired: whether the fault came.
    """

    status: int
    hang: bool
    log: str
    before: Tree
    after: Tree
    inputs_changed: tuple[str, ...]
    fired: bool


def wrong(
    ended: Ended, reference: Tree, may_stay: tuple[str, ...], killed: int = 0, cleaning_failed: bool = False
) -> str | None:
    """Return what is wrong with the end of a try, or None.

    Args:
        reference: the output's tree after an undisturbed try.
        may_stay: patterns of names that may lie beside the output after an error.
        killed: the signal that the fault sent, 0 for none.
        cleaning_failed: the fault hit a deletion, so that a staging name may be left.
    """
    if ended.hang:
        return "hangs"
    if ended.inputs_changed:
        return f"changed its inputs: {', '.join(ended.inputs_changed[:3])}"
    if "Traceback (most recent call last)" in ended.log:
        return f"traceback: {ended.log.strip().splitlines()[-1][:200]}"
    if ended.status == 0:
        return _incomplete(ended.after, reference, cleaning_failed)
    changed = _changes(ended.before, ended.after, may_stay, cleaning_failed or killed == signal.SIGKILL)
    if killed and ended.status in (-killed, 128 + killed):
        return changed and (
            None if killed == signal.SIGKILL and not _incomplete(ended.after, reference, True) else changed
        )
    if ended.status != 2:
        return f"ends with status {ended.status}: {ended.log.strip().splitlines()[-1:]!r}"
    sentences = [line for line in ended.log.splitlines() if line.startswith("error: ") or " error: " in line[:60]]
    if len(sentences) != 1:
        return f"status 2 with {len(sentences)} sentences: {ended.log.strip()[-200:]!r}"
    return changed


def _incomplete(after: Tree, reference: Tree, leftovers: bool) -> str | None:
    if leftovers:
        after = {name: value for name, value in after.items() if not _is_staging(name)}
    for name in reference.keys() | after.keys():
        if after.get(name) != reference.get(name):
            state = "missing" if name not in after else "unasked" if name not in reference else "other content"
            return f"status 0, and {name}: {state}"
    return None


def _changes(before: Tree, after: Tree, may_stay: tuple[str, ...], leftovers: bool) -> str | None:
    for name in sorted(before.keys() | after.keys()):
        if after.get(name) == before.get(name) or any(
            part and Path(part).match(each) for part in _parts(name) for each in may_stay
        ):
            continue
        if leftovers and _is_staging(name):
            continue
        return f"an error, and {name}: {'gone' if name not in after else 'left' if name not in before else 'changed'}"
    return None


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/")]


def _is_staging(name: str) -> bool:
    return any(part.startswith(".") and part.endswith((".tmp", ".old")) for part in name.split("/"))
