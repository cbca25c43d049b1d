"""``torchrun --nnodes 2`` over real, if virtual, network interfaces: disagreement, a lost host, a restart."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import ROOT
from support.hosts import Hosts, why_not
from support.tiny_run import make_run

from megatron_mmbert.checkpoint.discovery import committed_checkpoints

pytestmark = pytest.mark.slow  # some four minutes on two cores: eight times torchrun, its imports, and waiting

SILENCE = 12.0  # seconds; on a busy machine a rank's thread may well wait for two of them


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if reason := why_not():
        pytest.skip(reason)
    phase = {
        "name": "first",
        "tokens": 8000,
        "mask_ratio": 0.3,
        "max_length": 64,
        "lr": 1e-3,
        "batch": {"tokens_per_step": 512, "tokens_per_micro_batch": 256},
    }
    return make_run(
        tmp_path_factory.mktemp("data"),
        phases=[phase],
        resilience={"failed_rank_seconds": SILENCE},
        checkpoint={"every_tokens": 2000, "keep_last": 2},
        evaluation={},
    )


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(2) as made:
        yield made


class Job:
    """One torchrun on each of two hosts."""

    def __init__(self, hosts: Hosts, folder: Path, arguments: list[str], own: dict[str, list[str]], job: str) -> None:
        self.outputs = {name: folder / f"{job}-{name}.log" for name in hosts.names}
        self.processes: dict[str, subprocess.Popen[str]] = {}
        for number, name in enumerate(hosts.names):
            command = [
                *(sys.executable, "-W", "ignore", "-m", "torch.distributed.run"),
                *("--nnodes", "2", "--nproc-per-node", "1", "--rdzv-backend", "c10d", "--rdzv-id", job),
                *("--rdzv-endpoint", "10.77.0.1:29500", "--rdzv-conf", f"is_host={'false' if number else 'true'}"),
                *("--local-addr", hosts.address(name), "-m", "megatron_mmbert.pretrain"),
                *arguments,
                *own.get(name, []),
            ]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
            self.processes[name] = hosts.start(name, command, self.outputs[name], environment)

    def said(self, name: str) -> str:
        return self.outputs[name].read_text()

    def wait_for(self, name: str, text: str, seconds: float) -> None:
        self.until(lambda: text in self.said(name), seconds, f"{name} did not say {text!r}")

    def wait_for_end(self, name: str, seconds: float) -> int:
        self.until(lambda: self.processes[name].poll() is not None, seconds, f"{name} did not end")
        return self.processes[name].wait()

    def until(self, is_so: Callable[[], bool], seconds: float, otherwise: str) -> None:
        deadline = time.monotonic() + seconds
        while not is_so():
            if time.monotonic() > deadline:
                raise AssertionError("\n".join([otherwise, *(self.said(name)[-3000:] for name in self.outputs)]))
            time.sleep(0.2)


def sentences(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("error: ")]


def test_hosts_that_disagree_do_not_train(recipe: Path, hosts: Hosts, tmp_path: Path) -> None:
    arguments = [str(recipe), "--phase", "first", "--output", str(tmp_path / "run")]
    job = Job(hosts, tmp_path, arguments, {"node2": ["phases.first.lr=2e-3"]}, "other-recipe")
    for name in hosts.names:
        assert job.wait_for_end(name, 120) != 0
        (sentence,) = sentences(job.said(name))
        assert "ranks disagree on recipe: phases.0.lr is 0.002 for rank" in sentence
        assert "node1" in sentence and "node2" in sentence and "0.001" in sentence and "Traceback" not in sentence


@pytest.mark.parametrize(("lost", "left", "power"), [("node2", "node1", False), ("node1", "node2", True)])
def test_a_lost_host_is_named_and_a_restart_goes_on(
    lost: str, left: str, power: bool, recipe: Path, hosts: Hosts, tmp_path: Path
) -> None:
    """node2 by its cable, which leaves it running; node1, which has the store, by its power."""
    arguments = [str(recipe), "--phase", "first", "--output", str(tmp_path / "run")]
    endless = "phases.first.tokens=100M"
    job = Job(hosts, tmp_path, [*arguments, endless], {}, "lost")
    job.until(lambda: any("saved " in job.said(name) for name in hosts.names), 180, "no checkpoint")
    ranks = {name: 0 if "saved " in job.said(name) else 1 for name in hosts.names}
    hosts.kill(lost) if power else hosts.cut(lost)
    for name, other in ((left, lost),) if power else ((left, lost), (lost, left)):
        job.wait_for(name, "error: ", 3 * SILENCE)
        (sentence,) = sentences(job.said(name))
        assert f"rank {ranks[other]} on {other} has not been heard of for {SILENCE:g} s" in sentence
        assert "resumes from the last checkpoint" in sentence
    if not power:  # torchrun on a host without its store waits for it for a minute or more before it says anything
        job.wait_for(left, "(exitcode: 76)", 60)
    for name in hosts.names:
        hosts.kill(name)

    saved = committed_checkpoints(tmp_path / "run/first/checkpoints")
    resumed_at = int(saved[-1].name.removeprefix("step-"))
    for name in hosts.names:
        hosts.join(name)
    again = Job(hosts, tmp_path, [*arguments, endless], {}, "again")
    further = f"saved {saved[-1].parent}"
    again.until(lambda: any(further in again.said(name) for name in hosts.names), 180, "no further checkpoint")
    assert f"at step {resumed_at}, " in "".join(again.said(name) for name in hosts.names)
    for name in hosts.names:
        hosts.kill(name)
    steps = [json.loads(line)["step"] for line in (tmp_path / "run/first/metrics.jsonl").open()]
    assert steps == list(range(1, steps[-1] + 1)) and steps[-1] > resumed_at + 1
