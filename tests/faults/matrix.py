"""The matrix: every command x every fault x every kind of thing at its output, each cell judged by :mod:`judge`.

    python tests/faults/matrix.py [--cells 300] [--only NAME...] [--servers 2] [--report FILE.json] [--folder DIR]

Without ``--cells`` all cells run. Prints one line per wrong cell and a table at the end; status 1 if a cell is wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import judge
import shim
from server import Server
from world import CASES, Case, _fill, make_world

MAX_NTH = {"open": 40, "read": 30, "write": 30, "rename": 12, "fsync": 24, "mkdir": 8, "unlink": 12}
"""Of more operations of a kind than this, that many are taken, evenly spread."""
DAMAGES = ("cut", "empty", "flip", "zeros", "missing", "folder", "garbage", "unreadable-link")
EXISTING = (
    "own",
    "own-overwrite",
    "empty-folder",
    "foreign-folder",
    "foreign-file",
    "pipe",
    "link-to-foreign",
    "dangling-link",
    "loop",
    "parent-is-file",
    "input",
    "input-overwrite",
    "inside-input",
)


@dataclass(frozen=True)
class Cell:
    """One try: a case and one thing that is done to it."""

    case: str
    kind: str
    detail: str = ""
    fault: shim.Fault | None = None

    def __str__(self) -> str:
        return f"{self.case} / {self.kind} {self.fault or self.detail}".rstrip()


class Bench:
    """One server with a world of its own."""

    def __init__(self, world: Path, folder: Path) -> None:
        shutil.copytree(world, folder / "inputs", symlinks=True)
        self.inputs, self.out, self._log = folder / "inputs", folder / "out", folder / "log"
        _repoint(self.inputs, world)
        self._server = Server()
        self._folder = folder
        self._known: dict[str, tuple[judge.Tree, dict[str, int]]] = {}
        self._inputs_state = judge.tree(self.inputs, bits=False)

    def close(self) -> None:
        self._server.close()

    def reference(self, case: Case) -> tuple[judge.Tree, dict[str, int]]:
        """The output's tree of an undisturbed try, and how many operations of each kind it made."""
        if case.name not in self._known:
            self._prepare(case)
            answer = self._server.run(self._argv(case), self._folder, self._log, self._folder)
            if answer["status"] != 0:
                raise RuntimeError(f"{case.name} fails undisturbed: {self._log.read_text(errors='replace')[-2000:]}")
            self._known[case.name] = judge.tree(self.out), answer["counts"]
        return self._known[case.name]

    def _argv(self, case: Case, extra: tuple[str, ...] = ()) -> list[str]:
        places = {"{in}": str(self.inputs), "{out}": str(self.out)}
        return [_fill(word, places) for word in (*case.argv, *extra)]

    def _prepare(self, case: Case) -> None:
        _remove(self.out)
        self.out.mkdir()
        if case.starts_from:
            shutil.copytree(self.inputs / case.starts_from, self.out / "run", symlinks=True)

    def run(self, cell: Cell, case: Case) -> str | None:
        """Try the cell; returns what is wrong, or None."""
        reference, _ = self.reference(case)
        self._prepare(case)
        extra, undo, expected = self._arrange(cell, case, reference)
        before = judge.tree(self.out)
        files = 24 if cell.kind == "few-files" else None
        try:
            answer = self._server.run(
                self._argv(case, extra), self._folder, self._log, self._folder, cell.fault, files=files
            )
            wrong = self._judge(cell, case, answer, before, expected)
            ended_early = cell.fault is not None and (cell.fault.kills or (case.resumable and answer["status"] != 0))
            if wrong is None and ended_early:
                wrong = self._again(case, reference, answer)
        finally:
            undo()
        return wrong

    def _judge(
        self, cell: Cell, case: Case, answer: dict[str, Any], before: judge.Tree, reference: judge.Tree
    ) -> str | None:
        now = judge.tree(self.inputs, bits=False)
        changed = tuple(n for n in now.keys() | self._damaged.keys() if now.get(n) != self._damaged.get(n))
        ended = judge.Ended(
            status=answer["status"],
            hang=answer["hang"],
            log=self._log.read_text(errors="replace"),
            before=before,
            after=judge.tree(self.out),
            inputs_changed=changed,
            fired=answer["fired"],
        )
        killed = cell.fault.kills if cell.fault else 0
        cleaning = cell.fault is not None and cell.fault.kind == "unlink"
        return judge.wrong(ended, reference, case.may_stay, killed, cleaning)

    def _again(self, case: Case, reference: judge.Tree, answer: dict[str, Any]) -> str | None:
        """After a kill: the same command once more makes the whole output, and nothing is left beside it."""
        extra = (case.overwrite,) if answer["status"] != 0 and case.overwrite and case.output else ()
        again = self._server.run(self._argv(case, extra), self._folder, self._log, self._folder)
        log = self._log.read_text(errors="replace")
        if again["status"] != 0:
            return f"after the kill, the same command ends with {again['status']}: {log.strip()[-200:]}"
        problem = judge._incomplete(judge.tree(self.out), reference, False)
        return problem and f"after the kill and once more: {problem}"

    def _arrange(self, cell: Cell, case: Case, reference: judge.Tree) -> tuple[tuple[str, ...], Any, judge.Tree]:
        """Bring about what the cell is of; returns more arguments, how to undo it, and the tree expected."""
        self._damaged = self._inputs_state
        if cell.kind == "damage":
            undo = _damage(self.inputs / cell.detail.split(":")[0], cell.detail.split(":")[1])
            self._damaged = judge.tree(self.inputs, bits=False)

            def restore() -> None:
                undo()
                self._inputs_state = judge.tree(self.inputs, bits=False)

            return (), restore, reference
        if cell.kind == "existing":
            return self._existing(cell.detail, case, reference)
        return (), lambda: None, reference

    def _existing(self, what: str, case: Case, reference: judge.Tree) -> tuple[tuple[str, ...], Any, judge.Tree]:
        output = self.out / case.output
        extra: tuple[str, ...] = (case.overwrite,) if case.overwrite and what != "own" else ()
        if what in ("own", "own-overwrite"):
            self._server.run(self._argv(case), self._folder, self._log, self._folder)
        elif what == "empty-folder":
            output.mkdir(parents=True, exist_ok=True)
        elif what == "foreign-folder":
            (output / "photos").mkdir(parents=True)
            (output / "thesis.tex").write_text("years of work")
        elif what == "foreign-file":
            output.write_text("a recipe or a letter")
        elif what == "pipe":
            os.mkfifo(output)
        elif what == "link-to-foreign":
            (self.out / "home").mkdir()
            (self.out / "home" / "thesis.tex").write_text("years of work")
            output.symlink_to(self.out / "home")
        elif what == "dangling-link":
            output.symlink_to(self.out / "elsewhere")
        elif what == "loop":
            output.symlink_to(output)
        elif what == "parent-is-file":
            _remove(self.out)
            self.out.write_text("a file")
        expected = dict(reference)
        if what == "dangling-link":
            expected = {n.replace(case.output, "elsewhere", 1): v for n, v in reference.items()} | {
                case.output: f"link to {self.out / 'elsewhere'}"
            }
        return extra, lambda: None, expected


def cells_of(case: Case, counts: dict[str, int]) -> Iterator[Cell]:
    """Every cell of a case that made ``counts`` operations when nothing disturbed it."""
    for kind in shim.KINDS:
        total = counts[kind]
        chosen = (
            sorted({1 + i * max(total - 1, 0) // max(MAX_NTH[kind] - 1, 1) for i in range(MAX_NTH[kind])})
            if total
            else []
        )
        for nth in range(1, total + 1) if total <= MAX_NTH[kind] else chosen:
            for error in shim.ERRORS[kind]:
                yield Cell(case.name, "fault", fault=shim.Fault(kind, nth, error=error))
            if kind not in ("read", "unlink"):
                for number in shim.KILLS:
                    yield Cell(case.name, "fault", fault=shim.Fault(kind, nth, kills=number))
    for name in case.inputs:
        for damage in DAMAGES:
            yield Cell(case.name, "damage", f"{name}:{damage}")
    if case.output and not case.starts_from:
        for what in EXISTING:
            if not what.startswith(("input", "inside")):
                yield Cell(case.name, "existing", what)
    yield Cell(case.name, "few-files")


def _damage(path: Path, how: str) -> Any:
    """Harm an input; returns the function that undoes it."""
    kept = path.with_name(path.name + ".kept")
    state = path.lstat()
    path.rename(kept)
    content = kept.read_bytes() if kept.is_file() else b""
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "flip":
        at = len(content) * 2 // 3
        path.write_bytes(content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :] if content else b"")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "folder":
        path.mkdir()
    elif how == "garbage":
        path.write_bytes(random.Random(0).randbytes(max(64, len(content) // 3)))
    elif how == "unreadable-link":
        path.symlink_to("/proc/self/mem/nowhere")

    def undo() -> None:
        _remove(path)
        kept.rename(path)
        os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))

    return undo


def _repoint(inputs: Path, world: Path) -> None:
    """Recipes of the world name its folders; those of a copy name the copy's."""
    for path in inputs.rglob("recipe.yaml"):
        path.write_text(path.read_text().replace(str(world), str(inputs)))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run_matrix(folder: Path, cells: int | None, only: list[str], servers: int, seed: int = 0) -> dict[str, Any]:
    """Run the matrix below ``folder``; returns how many cells ran and what was wrong."""
    world = make_world(folder / "world")
    cases = [case for case in CASES if not only or case.name in only]
    todo: queue.Queue[Cell] = queue.Queue()
    first = Bench(world, _fresh(folder / "bench-0"))
    every = [cell for case in cases for cell in cells_of(case, first.reference(case)[1])]
    picked = every if cells is None or cells >= len(every) else random.Random(seed).sample(every, cells)
    for cell in picked:
        todo.put(cell)
    by_name = {case.name: case for case in cases}
    wrong: list[dict[str, str]] = []
    done: Counter[str] = Counter()
    lock = threading.Lock()

    def work(bench: Bench) -> None:
        while True:
            try:
                cell = todo.get_nowait()
            except queue.Empty:
                return
            problem = bench.run(cell, by_name[cell.case])
            with lock:
                done[cell.case] += 1
                if problem:
                    wrong.append({"cell": str(cell), "problem": problem})
                    print(f"WRONG {cell}: {problem}", flush=True)
                total = sum(done.values())
                if total % 200 == 0:
                    print(f"{total}/{len(picked)} cells, {len(wrong)} wrong", flush=True)

    benches = [first, *(Bench(world, _fresh(folder / f"bench-{n}")) for n in range(1, servers))]
    threads = [threading.Thread(target=work, args=(bench,)) for bench in benches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for bench in benches:
        bench.close()
    return {"cells": sum(done.values()), "of": len(every), "by_case": dict(done), "wrong": wrong}


def _fresh(folder: Path) -> Path:
    _remove(folder)
    folder.mkdir(parents=True)
    return folder


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, help="run a random sample of this many")
    parser.add_argument("--only", nargs="+", default=[], help="names of cases")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    started = time.monotonic()
    folder = arguments.folder or Path(tempfile.mkdtemp(prefix="mmbert-faults-"))
    found = run_matrix(folder, arguments.cells, arguments.only, arguments.servers)
    found["seconds"] = round(time.monotonic() - started, 1)
    for name, count in sorted(found["by_case"].items()):
        print(f"{name:<20} {count:>6}")
    print(f"{found['cells']} of {found['of']} cells in {found['seconds']} s, {len(found['wrong'])} wrong")
    if arguments.report:
        arguments.report.write_text(json.dumps(found, indent=1) + "\n")
    return 1 if found["wrong"] else 0


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
