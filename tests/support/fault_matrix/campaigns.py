"""Campaigns against one training: it is ended at random, or finds its checkpoints damaged, until it is complete.

Each yields a sentence for what is wrong: a step lost beyond the last valid checkpoint, something valid deleted, bits
that are not those of the undisturbed run.
"""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from megatron_mmbert.checkpoint.discovery import ValidCheckpoints, committed_checkpoints
from megatron_mmbert.checkpoint.metadata import read_meta
from support.fault_matrix import harm, judge, power
from support.fault_matrix.bench import Bench
from support.fault_matrix.cases import CASES, Case
from support.fault_matrix.server import Answer, Order

_KEPT = 3
_MORE_SAVES = ("checkpoint.every_tokens=700", f"checkpoint.keep_last={_KEPT}")
PRETRAIN, TWO_RANKS = (
    replace(case, argv=(*case.argv, *_MORE_SAVES)) for case in CASES if case.name in ("pretrain", "two-ranks")
)
_SAVED = re.compile(r"^saved \S*/step-(\d+)", re.MULTILINE)


class Campaign:
    """Attempts at one training on a bench, which is first done undisturbed."""

    def __init__(self, bench: Bench, case: Case, seed: int = 0) -> None:
        self._bench, self._case, self._reference = bench, case, bench.reference(case)
        self._draw = random.Random(f"{seed}{case.name}")
        self._checkpoints = bench.out / "run/first/checkpoints"
        self._stopped = bench.folder / "stopped"
        harm.remove(self._stopped)
        harm.remove(committed_checkpoints(self._checkpoints)[-1])
        (bench.out / "run").rename(self._stopped)

    def kills(self, count: int) -> Iterator[str]:
        """Kill ``count`` times at random moments; a run that has come to its end is compared, and another begun."""
        yield from self._ended_at_random(count, loses_power=False)

    def power_losses(self, count: int) -> Iterator[str]:
        """Lose the power ``count`` times at random moments."""
        yield from self._ended_at_random(count, loses_power=True)

    def _ended_at_random(self, count: int, loses_power: bool) -> Iterator[str]:
        ended, longest = 0, self._undisturbed_seconds()
        while ended < count:
            self._bench.prepare(self._case)
            answer = None
            while answer is None or any(answer.statuses):
                before = self._valid_steps()
                moment = self._draw.uniform(0, longest) if ended < count else None
                answer, lost = self._attempt(moment, loses_power)
                killed = any(answer.statuses)
                ended += killed
                yield from self._problems(answer, before, lost)
                if killed and moment is None:
                    yield f"ends with {answer.statuses}: {answer.log[-300:]}"
                    return
            problem = judge.incomplete(judge.tree(self._bench.out), self._reference.tree, loses_power)
            if problem:
                yield problem

    def pairs(self, count: int) -> Iterator[str]:
        """Start two trainers of one folder ``count`` times: one trains, the other says who does, or finds all done."""
        longest = self._undisturbed_seconds()
        for _ in range(count):
            self._bench.prepare(self._case)
            before = judge.tree(self._bench.out)
            argv, delay = self._case.argv, self._draw.choice((0.0, 0.01, self._draw.uniform(0, 1.2 * longest)))
            order = replace(self._bench.order(self._case), commands=(argv, argv), delays=(0.0, delay))
            answer = self._bench.server.run(order)
            ended = judge.Ended(
                answer.statuses, answer.logs, answer.hang, before, judge.tree(self._bench.out), inputs_changed=()
            )
            problem = judge.wrong_pair(ended, judge.Allowed(self._reference.tree))
            if problem:
                yield f"{delay:.2f} s apart: {problem}"

    def damaged_newest(self, count: int) -> Iterator[str]:
        """Damage the newest checkpoint: the run resumes from the one before it, in the same bits."""
        for _ in range(count):
            self._begin_stopped()
            newest = committed_checkpoints(self._checkpoints)[-1]
            what = self._damage(newest)
            answer = self._bench.server.run(self._bench.order(self._case))
            if answer.statuses != (0,):
                yield f"{what}: ends with {answer.statuses}: {answer.log[-300:]}"
            elif problem := judge.incomplete(judge.tree(self._bench.out), self._reference.tree, False):
                yield f"{what}: {problem}"

    def all_damaged(self, count: int) -> Iterator[str]:
        """Damage all checkpoints: the run ends with one sentence, and everything stays as it is."""
        for _ in range(count):
            self._begin_stopped()
            what = [self._damage(path) for path in committed_checkpoints(self._checkpoints)]
            before = judge.tree(self._bench.out)
            answer = self._bench.server.run(self._bench.order(self._case))
            ended = judge.Ended(
                answer.statuses, answer.logs, answer.hang, before, judge.tree(self._bench.out), inputs_changed=()
            )
            allowed = judge.Allowed(self._reference.tree, may_stay=("failed.json",), must_fail=True)
            if problem := judge.wrong(ended, allowed):
                yield f"{what}: {problem}"

    def _begin_stopped(self) -> None:
        """Begin with a run that lacks its last checkpoint."""
        self._bench.prepare(self._case)
        shutil.copytree(self._stopped, self._bench.out / "run")

    def _undisturbed_seconds(self) -> float:
        self._bench.prepare(self._case)
        return self._bench.server.run(self._bench.order(self._case)).seconds

    def _attempt(self, moment: float | None, loses_power: bool) -> tuple[Answer, list[str]]:
        order: Order = replace(self._bench.order(self._case), kill_after=moment)
        if not loses_power or moment is None:
            return self._bench.server.run(order), []
        record, durable = self._bench.folder / "power", power.durable_files(self._bench.out)
        power.forget(record)
        answer = self._bench.server.run(replace(order, record=record))
        return answer, power.lose_power(self._bench.out, record, durable, self._draw) if any(answer.statuses) else []

    def _problems(self, answer: Answer, before: list[int], lost: list[str]) -> Iterator[str]:
        """Compare the valid checkpoints with those before the attempt, and with those that it has announced."""
        now = self._valid_steps()
        announced = [int(step) for log in answer.logs for step in _SAVED.findall(log)]
        newest = max([*before, *announced, 0])
        if newest and newest not in now:
            yield f"step {newest} was saved, and valid are {now}; {lost} {answer.log[-300:]}"
        for step in sorted({*before, *announced})[-_KEPT:]:
            if step not in now and len(now) < _KEPT:
                yield f"step {step} was deleted, and valid are {now}; {lost}"
        if "Traceback" in answer.log or answer.hang:
            yield f"hangs or a traceback: {answer.log[-300:]}"

    def _valid_steps(self) -> list[int]:
        known = ValidCheckpoints()
        return [
            read_meta(path).step for path in committed_checkpoints(self._checkpoints) if known.problem(path) is None
        ]

    def _damage(self, checkpoint: Path) -> str:
        file = self._draw.choice(sorted(path for path in checkpoint.iterdir() if path.is_file()))
        how = self._draw.choice([how for how in harm.DAMAGES if how not in ("folder", "unreadable", "missing")])
        file.write_bytes(harm.damaged(file.read_bytes(), how))
        return f"{checkpoint.name}/{file.name}: {how}"
