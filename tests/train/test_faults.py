"""Faults of one rank in runs of several: the run does what the recipe says, all ranks alike, and the log names where.

One layout in every run, all of them with ``-m slow``.
"""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support.forked_ranks import Ranks
from support.tiny_run import make_run

LAYOUTS = {"dp2": (1, 1, 2), "tp2": (2, 1, 2), "pp2": (1, 2, 2), "tp2-dp2": (2, 1, 4), "pp2-dp2": (1, 2, 4)}
"""Tensor and pipeline parallelism, and ranks in all."""
HURT = {"dp2": 1, "tp2": 0, "pp2": 1, "tp2-dp2": 2, "pp2-dp2": 3}
"""The rank that the fault is done to. In a pipeline the last stage, which alone has a loss; where two ranks compute one
loss, the one that rank 0, which keeps the history of losses, hears of."""
QUICK = "dp2"
MATRIX = [pytest.param(name, marks=() if name == QUICK else pytest.mark.slow) for name in LAYOUTS]
AT = 4


@dataclass
class Ended:
    """A run that is over."""

    status: int
    log: str
    rows: list[dict[str, Any]]
    held: list[dict[str, Any]]
    output: Path

    def events(self, kind: str) -> list[str]:
        return re.findall(rf"^{kind}: (.*)$", self.log, re.MULTILINE)

    def of_ranks(self) -> str:
        """The log without the lines of torchrun's agent, which has a traceback of its own for every rank that fails."""
        return "".join(line for line in self.log.splitlines(True) if not re.match(r"[EW]\d{4} |agent: ", line))

    def agreed(self) -> None:
        """All ranks took the same steps, and copies of one weight are the same."""
        assert len({(held["steps"], held["tokens"]) for held in self.held}) == 1
        copies: dict[tuple[str, int], set[str]] = {}
        for held in self.held:
            for name, digest in held["weights"].items():
                copies.setdefault((name, held["place"][1] if name in held["split"] else 0), set()).add(digest)
        assert copies and all(len(digests) == 1 for digests in copies.values())


class Lab:
    def __init__(self, folder: Path) -> None:
        self.folder, self._ranks, self._count = folder, Ranks("faults"), 0
        self._recipe = make_run(folder / "data", evaluation={})

    def close(self) -> None:
        self._ranks.close()

    def run(self, layout: str, kind: str, *overrides: str, step: int = AT, rank: int | None = None) -> Ended:
        self._count += 1
        folder = self.folder / f"{self._count}-{layout}-{kind.replace(' ', '-')}"
        folder.mkdir()
        tensor, pipeline, ranks = LAYOUTS.get(layout, (1, 1, 1))
        model = ["model.num_layers=4", "phases.first.batch.tokens_per_step=1024", "phases.first.tokens=8000"]
        laid = [f"parallel.tensor={tensor}", f"parallel.pipeline={pipeline}", "checkpoint.every_tokens=2000"]
        command = [str(self._recipe), "--phase", "first", "--output", str(folder), *model, *laid, *overrides]
        hurt = HURT.get(layout, 0) if rank is None else rank
        order = {"ranks": ranks, "arguments": command, "log": f"{folder}.log", "ends": str(folder)}
        status = self._ranks.run(order | {"fault": [kind, hurt, step]})
        rows = [json.loads(line) for line in (folder / "first/metrics.jsonl").open()]
        held = [json.loads(path.read_text()) for path in sorted(folder.glob("?.json"))]
        return Ended(status, Path(f"{folder}.log").read_text(), rows, held, folder / "first")


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    made = Lab(tmp_path_factory.mktemp("faults"))
    yield made
    made.close()


def skipped(ended: Ended) -> list[int]:
    return [row["step"] for row in ended.rows if row["skipped"]]


@pytest.mark.parametrize("layout", MATRIX)
def test_a_nan_gradient_is_skipped_by_all(layout: str, lab: Lab) -> None:
    ended = lab.run(layout, "nan")
    assert ended.status == 0, ended.log[-3000:]
    (event,) = ended.events("non-finite")
    last = "encoder.layers.3.mlp.linear_fc2.weight"
    assert f"step {AT}: loss is " in event and f"the gradient of {last} is not finite" in event
    assert f"on rank {HURT[layout]}; skip; its samples: tools/inspect_data.py " in event
    assert f"--at-token {ended.rows[AT - 2]['phase_tokens']}" in event
    assert skipped(ended) == [AT]
    ended.agreed()
    alone = lab.run("alone", "nan")
    assert [row["loss"] for row in ended.rows] == pytest.approx([row["loss"] for row in alone.rows], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_nan_gradient_takes_all_back(layout: str, lab: Lab) -> None:
    ended = lab.run(layout, "nan", "stability.on_non_finite=rewind")
    assert ended.status == 0 and skipped(ended) == [AT], ended.log[-3000:]
    assert re.search(r"the weights are those of \S*/step-0000000[123] again", ended.log)
    ended.agreed()
    alone = lab.run("alone", "nan", "stability.on_non_finite=rewind")
    assert [row["loss"] for row in ended.rows] == pytest.approx([row["loss"] for row in alone.rows], rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_nan_gradient_ends_the_run(layout: str, lab: Lab) -> None:
    ended = lab.run(layout, "nan", "stability.on_non_finite=stop")
    assert ended.status == 1 and len(ended.rows) == AT - 1
    failed = json.loads((ended.output / "failed.json").read_text())["error"]
    assert f"step {AT}: " in failed and "linear_fc2.weight is not finite" in failed and "--at-token " in failed
    assert ended.log.count(f"error: {failed}") == LAYOUTS[layout][2], "all ranks say it"
    assert "Traceback" not in ended.of_ranks()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_spike_is_skipped_by_all(layout: str, lab: Lab) -> None:
    long = ("stability.on_spike=skip", "stability.spike_window=16", "phases.first.tokens=20000")
    ended = lab.run(layout, "spike", *long, step=18)
    assert ended.status == 0, ended.log[-3000:]
    (event,) = ended.events("spike")
    assert "step 18: loss " in event and "spreads above" in event and "--at-token " in event
    assert skipped(ended) == [18]
    ended.agreed()


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_slow_rank_is_named(layout: str, lab: Lab) -> None:
    ended = lab.run(layout, "slow", "phases.first.tokens=21000", rank=1)
    assert ended.status == 0, ended.log[-3000:]
    (event, *_) = ended.events("straggler")
    assert event.startswith(f"rank 1 on {socket.gethostname()} (")
    ended.agreed()


@pytest.mark.parametrize("kind", ["hang", pytest.param("hang in data", marks=pytest.mark.slow)])
@pytest.mark.parametrize("layout", MATRIX)
def test_a_hung_rank_is_named_and_all_end(layout: str, kind: str, lab: Lab) -> None:
    ended = lab.run(layout, kind, "resilience.hang_seconds=4", rank=1)
    where = "the data" if "data" in kind else "the forward and backward pass"
    reason = json.loads((ended.output / "interrupted.json").read_text())["reason"]
    assert f"rank 1 on {socket.gethostname()} hangs in {where} of step {AT}, and the others wait" in reason
    assert ended.status == 1 and len(ended.rows) == AT - 1
    assert ended.log.count(f"error: {reason}") == LAYOUTS[layout][2], "all ranks say it"
    assert "exitcode  : 76" in ended.log
    stuck = "stuck_in_data" if "data" in kind else "stuck_in_forward"
    assert f"in {stuck}" in ended.log, "the stacks show where"
