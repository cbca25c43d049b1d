"""The example pipeline of datatrove on a real Slurm, a node for each task.

bash tests/run.sh -m slurm          (root; MMBERT_DATATROVE_PYTHON)
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster
from support.datatrove_example import check_store, command, datatrove_python, environment, make_inputs, train_on

pytestmark = pytest.mark.slurm


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2, for the hosts' network namespaces")
    found = Cluster(tmp_path / "slurm")
    found.start()
    yield found
    found.run("scancel", "--user=root")
    found.stop()


def test_example_on_two_nodes(cluster: Cluster, tmp_path: Path) -> None:
    python = datatrove_python()
    corpus, tokenizer = make_inputs(tmp_path / "in")
    output = tmp_path / "out"
    options = ("--tasks", "2", "--slurm", "batch", "--memory-gb", "1", "--exclusive")
    done = cluster.run(*command(python, corpus, tokenizer, output, *options), environment=environment({}))
    assert done.returncode == 0, done.stderr
    jobs = dict(re.findall(r"^(\w+): job (\d+)$", done.stdout, re.MULTILINE))
    assert list(jobs) == ["clean", "signatures", "buckets", "clusters", "tokens", "store"]
    logs = output / "logs"
    for name, job in jobs.items():
        said = cluster.wait(job, 300)
        text = "\n".join(path.read_text(errors="replace")[-1500:] for path in (logs / name / "slurm_logs").iterdir())
        assert said.startswith("COMPLETED"), f"{name}: {said}\n{text}"
    hosts = set(re.findall(r"\bNodeList=(\S+)", cluster.run("scontrol", "-o", "show", "job", jobs["tokens"]).stdout))
    assert len(hosts - {"(null)"}) == 2, hosts
    check_store(output, tokenizer)
    train_on(output, tokenizer)
