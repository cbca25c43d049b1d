"""Two processes measured batch by batch in turn, so that what else the machine does slows both alike.

On a shared machine the rate of one and the same program drifts by half within minutes; the ratio of two that take
turns every few seconds does not.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from results import peak_megabytes

from megatron_mmbert.utils.errors import UserError

Batch = Callable[[], dict[str, float]]
"""Does the next batch; returns its ``seconds`` and whatever else adds up, such as ``tokens``."""


@dataclass
class Rates:
    """What a runner did within one comparison."""

    sums: dict[str, float] = field(default_factory=lambda: {"seconds": 0.0})
    batches: int = 0

    @property
    def seconds(self) -> float:
        return self.sums["seconds"]

    def per_second(self, name: str) -> float:
        return self.sums[name] / self.seconds

    def add(self, done: dict[str, float]) -> None:
        self.batches += 1
        for name, value in done.items():
            self.sums[name] = self.sums.get(name, 0.0) + value


class Runner:
    """A process that keeps its model and does a batch when told to. A context manager; leaving it ends the process.

    Args:
        script: calls :func:`serve` when started with ``--worker JOB``.
        job: what to load and run, as JSON.
        settings: environment variables to add.
    """

    def __init__(self, script: Path, job: dict[str, Any], settings: dict[str, str] | None = None) -> None:
        command = [sys.executable, "-W", "ignore", str(script), "--worker", json.dumps(job)]
        self._what = str(job.get("what", job))
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (settings or {})
        )
        self.batches = int(self._answer()["batches"])

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def batch(self) -> dict[str, float]:
        return self._ask("batch")

    def peak_mb(self) -> float:
        """Most memory it has held so far, in 10^6 bytes."""
        return self._ask("peak")["peak_mb"]

    def _ask(self, word: str) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> dict[str, float]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, float] = json.loads(line)
                return answer
        raise UserError(f"{self._what}: its process ended with status {self._process.wait()}; its error is above")


def serve(batch: Batch, batches: int) -> None:
    """In the process of a :class:`Runner`: do as told on stdin, ``batches`` being once through."""
    print(json.dumps({"batches": batches}), flush=True)
    for line in sys.stdin:
        answer = batch() if line.strip() == "batch" else {"peak_mb": peak_megabytes()}
        print(json.dumps(answer), flush=True)


def in_turn(first: Runner, second: Runner, most_seconds: float) -> tuple[Rates, Rates]:
    """Whoever has spent less time goes next, until each has been once through its batches, or worked
    ``most_seconds``."""
    rates = {first: Rates(), second: Rates()}
    while not all(rates[each].batches >= each.batches or rates[each].seconds > most_seconds for each in rates):
        runner = min(rates, key=lambda each: rates[each].seconds)
        rates[runner].add(runner.batch())
    return rates[first], rates[second]
