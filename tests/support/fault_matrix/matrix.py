"""The matrix: every command x every fault x every kind of thing at its output, each cell judged by :mod:`.judge`.

    PYTHONPATH=.:tests python -m support.fault_matrix.matrix [--cells 300] [--only NAME...] [--kinds KIND...]
        [--servers 2] [--report FILE.json] [--folder DIR]

Without ``--cells`` all cells run. Prints one line per wrong cell and a table at the end; status 1 if a cell is wrong.
"""

from __future__ import annotations

import argparse
import json
import queue
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from support.fault_matrix import harm, shim
from support.fault_matrix.bench import Bench, Cell, Reference
from support.fault_matrix.cases import CASES, Case
from support.fault_matrix.inputs import make_inputs
from support.fault_matrix.server import Server

T = TypeVar("T")
MAX_NTH, MAX_NTH_OF_TRAINING = 60, 24
"""Of more operations of a kind than this, that many are taken, evenly spread."""
DELAYS = ("0", "0.03", "0.2")
POWER_LOSSES = 3


@dataclass
class Found:
    """What a run of the matrix found: cells by case, and (cell, problem) of those that are wrong."""

    of: int
    seconds: float = 0.0
    by_case: Counter[str] = field(default_factory=Counter)
    wrong: list[tuple[str, str]] = field(default_factory=list)

    @property
    def cells(self) -> int:
        return sum(self.by_case.values())


def cells_of(case: Case, counts: dict[str, int], inputs: Path) -> Iterator[Cell]:
    """Every cell of a case that makes ``counts`` operations when nothing disturbs it."""
    yield from (Cell(case.name, "fault", fault=fault) for fault in _faults(case, counts))
    for name in case.inputs:
        place = inputs / name
        for file in sorted(place.rglob("*")) if place.is_dir() else [place]:
            if file.is_file():
                target = file.relative_to(inputs).as_posix()
                yield from (Cell(case.name, "damage", how, target) for how in harm.DAMAGES)
    if case.ranks > 1:
        return
    yield Cell(case.name, "few files")
    yield from (Cell(case.name, "two at once", delay) for delay in DELAYS)
    if case.output:
        yield from (Cell(case.name, "power", str(number)) for number in range(POWER_LOSSES))
        if not case.trains:
            yield from (Cell(case.name, "existing", what) for what in harm.EXISTING)
        if f"../out/{case.output}" in case.argv and not case.starts_from:
            yield from (Cell(case.name, "around inputs", what) for what in harm.AROUND_INPUTS)


def _faults(case: Case, counts: dict[str, int]) -> Iterator[shim.Fault]:
    """Two errors for each n, by turns through all of them, and a kill; of reads one error."""
    for kind in shim.KINDS:
        for turn, nth in enumerate(_spread(counts[kind], MAX_NTH_OF_TRAINING if case.trains else MAX_NTH)):
            errors = [shim.ERRORS[(2 * turn + more) % len(shim.ERRORS)] for more in range(2)]
            yield from (shim.Fault(kind, nth, error=error) for error in errors[: 1 if kind == "read" else 2])
            if kind != "read":
                yield shim.Fault(kind, nth, kills=shim.KILLS[turn % len(shim.KILLS)])


def _spread(total: int, count: int) -> list[int]:
    """1 to ``total``, or ``count`` of them."""
    if total <= count:
        return list(range(1, total + 1))
    return sorted({1 + number * (total - 1) // (count - 1) for number in range(count)})


def sample(cells: Sequence[Cell], count: int, seed: int) -> list[Cell]:
    """Draw ``count`` cells: as many of each case and, within a case, of each kind as there are."""
    kinds: dict[tuple[str, str], list[Cell]] = {}
    for cell in random.Random(seed).sample(list(cells), len(cells)):
        kinds.setdefault((cell.case, cell.kind), []).append(cell)
    cases: dict[str, list[Cell]] = {}
    for (case, _), drawn in sorted(kinds.items()):
        cases.setdefault(case, []).extend(drawn)
    for case, drawn in cases.items():
        by_kind = [[cell for cell in drawn if cell.kind == kind] for kind in sorted({cell.kind for cell in drawn})]
        cases[case] = list(_in_turns(by_kind))
    return list(_in_turns(list(cases.values())))[:count]


def _in_turns(lists: Sequence[Sequence[Cell]]) -> Iterator[Cell]:
    for place in range(max(map(len, lists), default=0)):
        yield from (each[place] for each in lists if place < len(each))


class Matrix:
    """Benches that work on cells in threads of their own; inputs that are in ``folder`` are used again."""

    def __init__(self, folder: Path, servers: int) -> None:
        started = [Server(folder / f"logs-{number}") for number in range(servers)]
        self.inputs = folder / "pristine"
        if not self.inputs.exists():
            make_inputs(started[0], self.inputs)
        self.benches = [Bench(server, self.inputs, folder / f"bench-{n}") for n, server in enumerate(started)]

    def close(self) -> None:
        for bench in self.benches:
            bench.server.close()

    def references(self, cases: Sequence[Case]) -> dict[str, Reference]:
        """Run every case undisturbed."""
        found: dict[str, Reference] = {}
        self._work(cases, lambda bench, case: found.__setitem__(case.name, bench.reference(case)))
        return found

    def run(self, cases: Sequence[Case], count: int | None = None, seed: int = 0, kinds: Sequence[str] = ()) -> Found:
        """Run the cells of ``cases``, or a sample of ``count``."""
        started, by_name = time.monotonic(), {case.name: case for case in cases}
        known = self.references(cases)
        every = [cell for case in cases for cell in cells_of(case, known[case.name].counts, self.inputs)]
        every = [cell for cell in every if not kinds or cell.kind in kinds]
        found, lock = Found(len(every)), threading.Lock()

        def run(bench: Bench, cell: Cell) -> None:
            problem = bench.run(cell, by_name[cell.case], known[cell.case])
            with lock:
                found.by_case[cell.case] += 1
                if problem:
                    found.wrong.append((str(cell), problem))
                    print(f"WRONG {cell}: {problem}", flush=True)
                if found.cells % 100 == 0:
                    print(f"{found.cells} cells, {len(found.wrong)} wrong", flush=True)

        self._work(every if count is None else sample(every, count, seed), run)
        found.seconds = time.monotonic() - started
        return found

    def _work(self, items: Sequence[T], run: Callable[[Bench, T], None]) -> None:
        todo: queue.SimpleQueue[T] = queue.SimpleQueue()
        for item in items:
            todo.put(item)
        failed: list[BaseException] = []

        def work(bench: Bench) -> None:
            while not failed:
                try:
                    run(bench, todo.get_nowait())
                except queue.Empty:
                    return
                except BaseException as error:
                    failed.append(error)

        threads = [threading.Thread(target=work, args=(bench,)) for bench in self.benches]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failed:
            raise failed[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, help="run a sample of this many")
    parser.add_argument("--only", nargs="+", default=[], help="names of cases")
    parser.add_argument("--kinds", nargs="+", default=[], help="kinds of cells")
    parser.add_argument("--servers", type=int, default=2)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    matrix = Matrix(arguments.folder or Path(tempfile.mkdtemp(prefix="mmbert-faults-")), arguments.servers)
    cases = [case for case in CASES if not arguments.only or case.name in arguments.only]
    found = matrix.run(cases, arguments.cells, kinds=arguments.kinds)
    matrix.close()
    for name, count in sorted(found.by_case.items()):
        print(f"{name:<20} {count:>6}")
    print(f"{found.cells} of {found.of} cells in {found.seconds:.0f} s, {len(found.wrong)} wrong")
    if arguments.report:
        arguments.report.write_text(json.dumps(vars(found), indent=1) + "\n")
    return 1 if found.wrong else 0


if __name__ == "__main__":
    sys.exit(main())
