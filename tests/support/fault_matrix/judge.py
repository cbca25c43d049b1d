"""Allowed ends of a try: the whole output and 0; nothing and 2 with one sentence; nothing and 128 + n."""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import signal
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, EXIT_FAILED_RANK, EXIT_STOPPED

_STAMP = re.compile(rb"20\d\d-\d\d-\d\d(T\d\d:\d\d:\d\dZ)?")
_MEASURED = frozenset(
    ("seconds", "data_seconds", "tokens_per_second", "mfu", "time", "pid", "wrote", "stalled", "computed")
)
_KEPT_OLD = re.compile(r"\.jsonl\.\d+$")
"""Metrics of a phase that begins anew are kept under such a name."""
_CHECKPOINT = re.compile(r"(.*/checkpoints)/(step-\d+)")
_NUMBER = re.compile(r"[0-9.,]+")
_TIMED = ("heartbeat.json", "events.out.*", "made_from.json")
"""Files that are of the moment; they must be there."""
_TRACEBACK = re.compile(r"Traceback \(most recent|Exception in thread|Exception ignored|terminate called|\n  File \"")

Tree = dict[str, str]
"""Relative path -> digest of the content, or what else it is."""


def tree(folder: Path) -> Tree:
    """Describe all below ``folder`` by content, times and measurements left out."""
    found: Tree = {}
    for name, path in _entries(folder):
        if path.is_symlink():
            found[name] = f"link to {path.readlink()}"
        elif path.is_dir():
            found[name] = "folder"
        elif not path.is_file():
            found[name] = "device or pipe"
        else:
            found[name] = "" if any(Path(name).match(each) for each in _TIMED) else _digest(path)
    return found


def identities(folder: Path) -> Tree:
    """Describe all below ``folder`` by what changes when somebody writes there."""
    found: Tree = {}
    for name, path in _entries(folder):
        state = path.lstat()
        is_folder = path.is_dir() and not path.is_symlink()
        found[name] = "folder" if is_folder else f"{state.st_mode:o} {state.st_size} {state.st_mtime_ns} {state.st_ino}"
    return found


def _entries(folder: Path) -> Iterable[tuple[str, Path]]:
    if folder.is_symlink() or folder.exists():
        for path in [folder, *sorted(folder.rglob("*"))]:
            yield path.relative_to(folder).as_posix(), path


def _digest(path: Path) -> str:
    content = path.read_bytes()
    if path.name == "checksums.json":
        content = _names(content)  # the sums are of files that hold the time
    elif path.name == ".metadata":
        content = _contents(content)
    elif path.suffix in (".json", ".jsonl", ".md", ".yaml"):
        content = _STAMP.sub(b"", content)
    if path.suffix in (".json", ".jsonl"):
        content = b"\n".join(map(_not_measured, content.splitlines() if path.suffix == ".jsonl" else [content]))
    return hashlib.sha256(content).hexdigest()


def _not_measured(text: bytes) -> bytes:
    """Return JSON without what a clock measured; what is no JSON stays as it is."""

    def without(values: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in values.items() if key not in _MEASURED}

    try:
        return json.dumps(json.loads(text, object_hook=without)).encode()
    except ValueError:
        return text


def _names(checksums: bytes) -> bytes:
    try:
        return json.dumps(sorted(json.loads(checksums))).encode()
    except ValueError:
        return checksums


def _contents(metadata: bytes) -> bytes:
    """Return the table of contents of a checkpoint, without the random name that PyTorch gives each save."""
    try:
        table = pickle.loads(metadata)  # of our own making
    except Exception:
        return metadata  # a damaged one
    # In the order in which threads wrote them, which is another each time.
    stored = sorted(map(repr, (table.storage_data or {}).items()))
    return repr((table.state_dict_metadata, table.planner_data, stored)).encode()


@dataclass(frozen=True)
class Ended:
    """The end of a try.

    Attributes:
        statuses: as each process gave it; negative: the signal it died of.
        logs: what each printed.
        before, after: the trees of the output's folder.
        inputs_changed: names below the inputs that are not as before.
    """

    statuses: tuple[int, ...]
    logs: tuple[str, ...]
    hang: bool
    before: Tree
    after: Tree
    inputs_changed: tuple[str, ...]


@dataclass(frozen=True)
class Allowed:
    """What a try may end in.

    Attributes:
        whole: the output's tree of an undisturbed try.
        printed: what an undisturbed try of a command without output prints; None where an output is compared.
        may_stay: patterns of names that may lie beside the output after an error, for the next try to resume from.
        killed: the signal that the fault sends, 0 for none.
        leftovers: whether a staging name may be left: the fault hit a deletion, or nobody lived to delete.
        other_content: whether another output is as right: the damaged input is text that has no checksum.
        must_fail: whether a 0 is wrong: what is damaged is what the command verifies.
        trains: whether the command may stop and ask for another start.
        many_sentences: whether the command has a sentence for each of several problems.
    """

    # attributes: the columns of one table, each read in one place
    whole: Tree
    printed: str | None = None
    may_stay: tuple[str, ...] = ()
    killed: int = 0
    leftovers: bool = False
    other_content: bool = False
    must_fail: bool = False
    trains: bool = False
    many_sentences: bool = False


def wrong(ended: Ended, allowed: Allowed) -> str | None:
    """Return what is wrong with the end of a try of one process, or None."""
    (status,), (log,) = ended.statuses, ended.logs
    if (problem := _always_wrong(ended)) is not None:
        return problem
    if status == 0:
        if allowed.must_fail:
            return "status 0 for what is damaged"
        return None if allowed.other_content else _partial(ended.after, log, allowed)
    changed = _changes(ended.before, ended.after, allowed)
    if allowed.killed and status in (-allowed.killed, 128 + allowed.killed):
        done = {name: value for name, value in ended.after.items() if not may_stay(name, allowed)}
        whole_already = not incomplete(done, allowed.whole, True)  # the signal came after the last rename
        return None if whole_already else changed
    if allowed.trains and allowed.killed and status == EXIT_STOPPED:
        return changed
    return _bad_sentence(status, log, allowed) or changed


def wrong_pair(ended: Ended, allowed: Allowed) -> str | None:
    """Return what is wrong with the end of two equal commands that started together, or None."""
    if (problem := _always_wrong(ended)) is not None:
        return problem
    if 0 not in ended.statuses:
        return f"of two at once none ends with 0: {ended.statuses}, {_tail(''.join(ended.logs))}"
    for status, log in zip(ended.statuses, ended.logs, strict=True):
        if status != 0 and (problem := _bad_sentence(status, log, allowed)) is not None:
            return problem
    return incomplete(ended.after, allowed.whole, False)


def wrong_ranks(ended: Ended, allowed: Allowed) -> str | None:
    """Return what is wrong with the end of a training of several ranks, or None."""
    if (problem := _always_wrong(ended)) is not None:
        return problem
    if not any(ended.statuses):
        return _partial(ended.after, "".join(ended.logs), replace(allowed, printed=None))
    ends = {0, EXIT_BAD_INPUT, EXIT_FAILED_RANK, EXIT_STOPPED}
    ends |= {-signal.SIGTERM, 128 + signal.SIGTERM, -signal.SIGKILL}  # by the agent, after another rank's end
    if allowed.killed:
        ends |= {-allowed.killed, 128 + allowed.killed}
    if not ends.issuperset(ended.statuses):
        return f"ranks end with {ended.statuses}: {_tail(''.join(ended.logs))}"
    if set(ended.statuses) & {EXIT_BAD_INPUT, EXIT_FAILED_RANK} and not any(map(sentences, ended.logs)):
        return f"ranks end with {ended.statuses} and no sentence: {_tail(''.join(ended.logs))}"
    return _changes(ended.before, ended.after, allowed)


def _always_wrong(ended: Ended) -> str | None:
    if ended.hang:
        return f"hangs: {_tail(''.join(ended.logs))}"
    if ended.inputs_changed:
        return f"changed its inputs: {', '.join(ended.inputs_changed[:3])}"
    for log in ended.logs:
        if (found := _TRACEBACK.search(log)) is not None:
            return f"traceback: {_tail(log[found.start() :])}"
    return None


def _partial(after: Tree, log: str, allowed: Allowed) -> str | None:
    if allowed.printed is not None and spoken(log) != spoken(allowed.printed):
        return f"status 0, and prints other things: {_tail(log)}"
    whole = allowed.whole
    if allowed.trains and "save failed: " in log:  # which of the older ones are there depends on the one that is not
        after, whole = without_older(after), without_older(whole)
    return incomplete(after, whole, allowed.leftovers)


def without_older(found: Tree) -> Tree:
    """Return a run without its checkpoints but the newest of each phase."""
    newest: dict[str, str] = {}
    for name in found:
        if (match := _CHECKPOINT.match(name)) is not None:
            newest[match[1]] = max(match[2], newest.get(match[1], ""))
    return {
        name: value
        for name, value in found.items()
        if (match := _CHECKPOINT.match(name)) is None or match[2] == newest[match[1]]
    }


def _bad_sentence(status: int, log: str, allowed: Allowed) -> str | None:
    if status != EXIT_BAD_INPUT:
        return f"ends with status {status}: {_tail(log)}"
    count = len(sentences(log))
    if count == 0 or (count > 1 and not allowed.many_sentences):
        return f"status 2 with {count} sentences: {_tail(log)}"
    return None


def sentences(log: str) -> list[str]:
    """Return the lines of a log that say an error."""
    return [line for line in log.splitlines() if line.startswith("error: ")]


def spoken(log: str) -> str:
    """Return what was printed without numbers, which may be measured."""
    return _NUMBER.sub("0", log)


def incomplete(after: Tree, whole: Tree, leftovers: bool) -> str | None:
    """Return what differs from the whole output, or None; ``leftovers``: staging names do not count."""
    if leftovers:
        after = {name: value for name, value in after.items() if not _is_staging(name)}
    for name in sorted(whole.keys() | after.keys()):
        if after.get(name) != whole.get(name) and not (name not in whole and _KEPT_OLD.search(name)):
            state = "missing" if name not in after else "unasked" if name not in whole else "other content"
            return f"said to be whole, and {name}: {state}"
    return None


def _changes(before: Tree, after: Tree, allowed: Allowed) -> str | None:
    leftovers = allowed.leftovers or allowed.killed == signal.SIGKILL
    for name in sorted(before.keys() | after.keys()):
        if after.get(name) == before.get(name) or (leftovers and _is_staging(name)):
            continue
        if leftovers and after.get(name) == "folder" and name not in before and _holds_staging_only(after, name):
            continue  # made for the output, and nobody was there to remove it, or it could not be emptied
        if not may_stay(name, allowed):
            return (
                f"an error, and {name}: {'gone' if name not in after else 'left' if name not in before else 'changed'}"
            )
    return None


def _holds_staging_only(found: Tree, folder: str) -> bool:
    below = (name for name in found if name.startswith(f"{folder}/"))
    return all(found[name] == "folder" or _is_staging(name) for name in below)


def may_stay(name: str, allowed: Allowed) -> bool:
    """Return whether ``name`` may be there after an error."""
    return any(Path(part).match(each) for part in name.split("/") if part for each in allowed.may_stay)


def _is_staging(name: str) -> bool:
    return any(part.startswith(".") and part.endswith((".tmp", ".old", ".now", ".partial")) for part in name.split("/"))


def _tail(log: str) -> str:
    return " | ".join(log.strip().splitlines()[-3:])[-400:]
