"""One fork server with inputs of its own: it runs a cell of the matrix and says what was wrong."""

from __future__ import annotations

import errno
import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

from support.fault_matrix import harm, judge, power, shim
from support.fault_matrix.cases import Case
from support.fault_matrix.server import Answer, Order, Server

FEW_FILES = 24


@dataclass(frozen=True)
class Cell:
    """One try: a case and one thing that is done to it.

    Attributes:
        kind: ``fault``, ``damage``, ``existing``, ``around inputs``, ``few files``, ``two at once`` or ``power``.
        detail: what of that kind.
        target: the input that is damaged, relative to the inputs.
    """

    case: str
    kind: str
    detail: str = ""
    target: str = ""
    fault: shim.Fault | None = None

    def __str__(self) -> str:
        return " ".join(filter(None, (f"{self.case} / {self.kind}", str(self.fault or self.detail), self.target)))


@dataclass(frozen=True)
class Reference:
    """What a case does undisturbed: its output, what it prints, and its operations of each kind."""

    tree: judge.Tree
    printed: str
    counts: dict[str, int]


@dataclass
class _Setting:
    """A try as it is arranged: arguments, what may come out, and how to undo what was done to the inputs."""

    argv: tuple[str, ...]
    allowed: judge.Allowed
    undo: Callable[[], None] = lambda: None
    inputs: judge.Tree = field(default_factory=dict)


class Bench:
    """A server, a copy of the inputs, and the folder of outputs.

    Args:
        pristine: the inputs, which stay as they are.
    """

    def __init__(self, server: Server, pristine: Path, folder: Path) -> None:
        self.server, self.folder, self._pristine = server, folder, pristine
        self.files, self.out = folder / "files", folder / "files/out"
        self.inputs, self._record = self.files / "inputs", folder / "power"
        self._copy_inputs()

    def _copy_inputs(self) -> None:
        harm.remove(self.inputs)
        shutil.copytree(self._pristine, self.inputs, symlinks=True)
        self._inputs_state = judge.identities(self.inputs)

    def order(self, case: Case, argv: tuple[str, ...] | None = None) -> Order:
        """Return the order that runs ``case``, on its ranks."""
        command = argv or case.argv
        return Order((command,) * case.ranks, self.files, self.inputs, ranks=case.ranks > 1)

    def prepare(self, case: Case) -> None:
        """Make the folder of outputs as it is before the case."""
        harm.remove(self.out)
        self.out.mkdir()
        if case.starts_from:
            shutil.copytree(self.inputs / case.starts_from, self.out / "run", symlinks=True)

    def reference(self, case: Case) -> Reference:
        """Run the case undisturbed."""
        self.prepare(case)
        answer = self.server.run(self.order(case))
        if any(answer.statuses):
            raise RuntimeError(f"{case.name} fails undisturbed: {answer.statuses} {answer.log[-2000:]}")
        return Reference(judge.tree(self.out), answer.logs[0], answer.counts)

    def run(self, cell: Cell, case: Case, reference: Reference) -> str | None:
        """Try the cell; returns what is wrong, or None."""
        self.prepare(case)
        setting = self._arrange(cell, case, reference)
        setting.inputs = setting.inputs or self._inputs_state
        before = judge.tree(self.out)
        try:
            order = replace(self.order(case, setting.argv), fault=cell.fault)
            if cell.kind == "few files":
                order = replace(order, files=FEW_FILES)
            if cell.kind == "two at once":
                order = replace(order, commands=(setting.argv,) * 2, delays=(0.0, float(cell.detail)))
            if cell.kind == "power":
                return self._lose_power(cell, case, order, setting)
            answer = self.server.run(order)
            problem = self._judge(cell, case, answer, before, setting)
            if problem is None and cell.fault is not None and (cell.fault.kills or case.trains):
                problem = self._again(case, reference, answer)
            return problem
        finally:
            setting.undo()
            if judge.identities(self.inputs) != self._inputs_state:
                self._copy_inputs()

    def _judge(self, cell: Cell, case: Case, answer: Answer, before: judge.Tree, setting: _Setting) -> str | None:
        now = judge.identities(self.inputs)
        changed = tuple(n for n in now.keys() | setting.inputs.keys() if now.get(n) != setting.inputs.get(n))
        if cell.detail == "inside input" and answer.statuses == (0,):
            changed = tuple(name for name in changed if "inner" not in Path(name).parts)
        ended = judge.Ended(answer.statuses, answer.logs, answer.hang, before, judge.tree(self.out), changed)
        if cell.kind == "two at once":
            return judge.wrong_pair(ended, setting.allowed)
        return (judge.wrong_ranks if case.ranks > 1 else judge.wrong)(ended, setting.allowed)

    def _again(self, case: Case, reference: Reference, answer: Answer) -> str | None:
        """After a kill: the same command once more makes the whole output, and nothing is left beside it."""
        if not any(answer.statuses):
            return None
        extra = (case.overwrite,) if case.overwrite and case.output else ()
        again = self.server.run(self.order(case, (*case.argv, *extra)))
        if any(again.statuses):
            return f"once more, it ends with {again.statuses}: {again.log.strip()[-300:]}"
        after, whole = judge.tree(self.out), reference.tree
        if case.trains:  # killed between a commit and the deletion of what it makes superfluous, it keeps one more
            after, whole = judge.without_older(after), judge.without_older(whole)
        problem = judge.incomplete(after, whole, False)
        return problem and f"once more: {problem}"

    def _lose_power(self, cell: Cell, case: Case, order: Order, setting: _Setting) -> str | None:
        """Lose the power when the command has said that all is well: the output is whole all the same."""
        durable = power.durable_files(self.out)
        power.forget(self._record)
        answer = self.server.run(replace(order, record=self._record))
        lost = power.lose_power(self.out, self._record, durable, random.Random(f"{cell}"))
        if case.trains:
            answer = self.server.run(self.order(case))
        if any(answer.statuses):
            return f"ends with {answer.statuses}: {answer.log.strip()[-300:]}; lost: {lost}"
        after = judge.tree(self.out)
        if not case.trains:
            after = {name: value for name, value in after.items() if not judge.may_stay(name, setting.allowed)}
        problem = judge.incomplete(after, setting.allowed.whole, True)
        return problem and f"{problem}; lost: {', '.join(lost)}"

    def _arrange(self, cell: Cell, case: Case, reference: Reference) -> _Setting:
        """Bring about what the cell is of."""
        allowed = judge.Allowed(
            reference.tree,
            printed=None if case.output else reference.printed,
            may_stay=case.may_stay,
            killed=cell.fault.kills if cell.fault else 0,
            leftovers=cell.fault is not None and cell.fault.kind == "unlink",
            other_content=case.falls_back and cell.fault is not None and cell.fault.error == errno.EIO,
            trains=case.trains,
            many_sentences=case.many_sentences,
        )
        if cell.kind == "damage":
            is_text = any(cell.target == text or cell.target.startswith(f"{text}/") for text in case.texts)
            undo = harm.damage(self.inputs / cell.target, cell.detail)
            is_text = is_text or _same_json(self._pristine / cell.target, self.inputs / cell.target)
            allowed = replace(allowed, other_content=is_text, must_fail=case.verifies and not is_text)
            return _Setting(case.argv, allowed, undo, judge.identities(self.inputs))
        if cell.kind == "existing":
            return self._existing(cell.detail, case, allowed)
        if cell.kind == "around inputs":
            return _Setting(_around_inputs(case, cell.detail), replace(allowed, other_content=True))
        return _Setting(case.argv, allowed)

    def _existing(self, what: str, case: Case, allowed: judge.Allowed) -> _Setting:
        output, flag = self.out / case.output, (case.overwrite,) if case.overwrite and what != "own" else ()
        if what.startswith("own"):
            self.server.run(self.order(case))
            return _Setting((*case.argv, *flag), allowed)
        harm.put_at_output(output, what)
        whole = dict(allowed.whole)
        if what == "dangling link":
            elsewhere = Path(case.output).with_stem("elsewhere").as_posix()
            whole = {name.replace(case.output, elsewhere, 1): value for name, value in whole.items()}
        if what != "empty folder":
            whole |= judge.tree(self.out)  # whatever lies there is there still
        return _Setting((*case.argv, *flag), replace(allowed, whole=whole))


def _same_json(one: Path, other: Path) -> bool:
    """Return whether two files are JSON of the same values: a missing last line break damages nothing."""
    try:
        return one.suffix == ".json" and json.loads(one.read_bytes()) == json.loads(other.read_bytes())
    except (OSError, ValueError):
        return False


def _around_inputs(case: Case, what: str) -> tuple[str, ...]:
    """Return the command with its first input, a place in it, or the folder of all inputs as its output."""
    place = {"input": case.inputs[0], "inside input": f"{case.inputs[0]}/inner", "parent of input": "."}[what]
    words = tuple(place if word == f"../out/{case.output}" else word for word in case.argv)
    return (*words, *((case.overwrite,) if case.overwrite else ()))
