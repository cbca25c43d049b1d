"""The job scripts on a real Slurm: two nodes, preemption, the time limit, a lost node, the whole graph, a failure.

bash tests/run.sh -m slurm          (root)
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cluster import Cluster, until
from support.tiny_run import make_run

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.checkpoint.discovery import newest_step

pytestmark = pytest.mark.slurm

LONG = (
    "phases.first.batch.tokens_per_step=1536",
    "phases.first.tokens=1500000",
    "checkpoint.every_tokens=60000",
    "checkpoint.keep_last=2",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() or not shutil.which("ip"):
        pytest.skip("needs root and iproute2, for the hosts' network namespaces")
    found = Cluster(tmp_path_factory.mktemp("slurm"))
    found.start()
    yield found
    found.stop()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("slurm-data"))


@pytest.fixture
def output(cluster: Cluster, tmp_path: Path) -> Iterator[Path]:
    """The run's folder; says what the jobs said when a test fails, and leaves no job behind."""
    for log in cluster.root.glob("*.out"):
        log.unlink()
    yield tmp_path / "out"
    cluster.run("scancel", "--user=root")
    print(cluster.log())
    for log in sorted((tmp_path / "out").rglob("*.log")):
        print(f"--- {log}\n{log.read_text(errors='replace')[-3000:]}")


def steps(output: Path, phase: str = "first") -> list[int]:
    return [json.loads(line)["step"] for line in (output / phase / "metrics.jsonl").open()]


def trains(output: Path) -> bool:
    """Whether a checkpoint is written and training goes on behind it."""
    step, _ = newest_step(PhaseFolder(output, "first").checkpoints)
    beat = output / "first/heartbeat.json"
    return step > 0 and beat.exists() and json.loads(beat.read_text()).get("step", 0) > step


def test_two_nodes(cluster: Cluster, recipe: Path, output: Path) -> None:
    job = cluster.sbatch("--nodes=2", "slurm/pretrain.sh", recipe, "--phase", "first", "--output", output)
    assert cluster.wait(job) == "COMPLETED 0:0"
    assert "phase first is finished" in cluster.log()
    assert newest_step(PhaseFolder(output, "first").checkpoints)[1]
    log = "".join(path.read_text() for path in (output / "first/logs").glob("node-*.log"))
    assert "2 ranks (tp 1, pp 1, dp 2)" in log
    again = cluster.sbatch("--nodes=2", "slurm/pretrain.sh", recipe, "--phase", "first", "--output", output)
    assert cluster.wait(again) == "COMPLETED 0:0" and "is finished already" in cluster.log()


def test_preemption_saves_requeues_and_goes_on(cluster: Cluster, recipe: Path, output: Path) -> None:
    job = cluster.sbatch(
        "--partition=preempt", "--nodes=3", "slurm/pretrain.sh", recipe, "--phase", "first", "--output", output, *LONG
    )
    until(lambda: trains(output), 300, "training")
    other = cluster.sbatch("--partition=batch", "--nodes=2", "--exclusive", "--wrap", "sleep 5")
    assert cluster.wait(other) == "COMPLETED 0:0"
    assert cluster.wait(job, 900) == "COMPLETED 0:0"
    assert cluster.field(job, "Restarts") == "1"
    log = cluster.log()
    assert "requeue: " in log and "attempt 1] phase first on" in log
    found = steps(output)
    assert found == list(range(1, found[-1] + 1)), "each step once, none missing"
    assert newest_step(PhaseFolder(output, "first").checkpoints) == (found[-1], True)


def test_time_limit_is_seen_ahead(cluster: Cluster, recipe: Path, output: Path) -> None:
    long = [value.replace("=1500000", "=100M").replace("=60000", "=100M") for value in LONG]
    job = cluster.sbatch(
        "--time=4", "--signal=B:USR2@20", "--nodes=1", "slurm/pretrain.sh", recipe, "--phase", "first",
        "--output", output, *long,
    )  # fmt: skip
    until(lambda: "requeue: " in cluster.log(), 300, "a requeue")
    stopped = newest_step(PhaseFolder(output, "first").checkpoints)
    assert stopped[0] > 0, "what was trained is saved, though no regular save was due"
    assert not stopped[1]
    log = "".join(path.read_text() for path in (output / "first/logs").glob("node-*.log"))
    assert "s are left, a step and a save may need" in log
    cluster.run("scancel", job)
    until(lambda: cluster.field(job, "JobState") == "CANCELLED", 60, "the job's end")


def test_a_killed_node(cluster: Cluster, recipe: Path, output: Path) -> None:
    job = cluster.sbatch("--nodes=2", "slurm/pretrain.sh", recipe, "--phase", "first", "--output", output, *LONG)
    until(lambda: trains(output), 300, "training")
    nodes = cluster.run("scontrol", "show", "hostnames", cluster.field(job, "NodeList")).stdout.split()
    cluster.tool("kill-node", nodes[1])
    try:
        assert cluster.wait(job, 900) == "COMPLETED 0:0"
    finally:
        cluster.tool("boot-node", nodes[1])
    assert int(cluster.field(job, "Restarts")) >= 1
    found = steps(output)
    assert found == list(range(1, found[-1] + 1)) and newest_step(PhaseFolder(output, "first").checkpoints) == (
        found[-1],
        True,
    )


def test_bad_recipe_fails_for_good_and_says_why(cluster: Cluster, recipe: Path, output: Path) -> None:
    job = cluster.sbatch(
        "slurm/pretrain.sh", recipe, "--phase", "first", "--output", output, "phases.first.languages=[xyz]"
    )
    assert cluster.wait(job) == "FAILED 2:0"
    assert "lack language 'xyz'" in cluster.log() and cluster.field(job, "Restarts") == "0"


def test_preflight_failure_is_not_tried_again(cluster: Cluster, recipe: Path, output: Path) -> None:
    job = cluster.sbatch("slurm/pretrain.sh", recipe, "--phase", "first", "--output", output, "data.stores=[/nowhere]")
    assert cluster.wait(job) == "FAILED 3:0"
    assert "/nowhere" in cluster.log() and "pre-flight failed" in cluster.log()


def test_a_run_folder_that_hosts_do_not_share(cluster: Cluster, recipe: Path, output: Path) -> None:
    own = "/dev/shm/out"  # each host has its own
    job = cluster.sbatch("--nodes=2", "slurm/pretrain.sh", recipe, "--phase", "first", "--output", own)
    assert cluster.wait(job) == "FAILED 3:0"
    assert "alone, and 2 nodes wrote theirs: they do not share this folder" in cluster.log()


def test_a_lost_rank_is_named_and_the_job_goes_on(cluster: Cluster, recipe: Path, output: Path) -> None:
    """Under torchrun the status 76 of the other rank is 1: the job reads the record."""
    job = cluster.sbatch(
        "--nodes=2", "slurm/pretrain.sh", recipe, "--phase", "first", "--output", output, *LONG,
        "resilience.failed_rank_seconds=12",
    )  # fmt: skip
    until(lambda: trains(output), 300, "training")
    nodes = cluster.run("scontrol", "show", "hostnames", cluster.field(job, "NodeList")).stdout.split()
    cluster.tool("on", nodes[1], "sh", "-c", "kill -STOP $(pgrep -f -- '[-]u -m megatron_mmbert.pretrain')")
    until(lambda: "requeue: " in cluster.log(), 120, "a requeue")
    requeued = next(line for line in cluster.log().splitlines() if "requeue: " in line)
    assert "has not been heard of for 12 s" in requeued and nodes[1] in requeued
    assert cluster.wait(job, 900) == "COMPLETED 0:0"
    found = steps(output)
    assert found == list(range(1, found[-1] + 1)) and newest_step(PhaseFolder(output, "first").checkpoints) == (
        found[-1],
        True,
    )


@pytest.fixture(scope="module")
def whole_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three phases, three variants, a merge; its store is for the jobs to make."""
    folder = tmp_path_factory.mktemp("slurm-whole")
    names = ("pretrain", "midtrain", "decay_eng", "decay_cont", "decay_all")
    phase = {
        "tokens": 2500, "mask_ratio": 0.3, "max_length": 64, "lr": 1e-3,
        "batch": {"tokens_per_step": 512, "tokens_per_micro_batch": 256},
    }  # fmt: skip
    phases = [phase | {"name": name} | ({"from": "midtrain"} if "decay" in name else {}) for name in names]
    return make_run(folder, phases=phases, merge={"base": "midtrain", "models": list(names[2:])})


def test_the_whole_graph_ends_with_a_merged_model(cluster: Cluster, whole_recipe: Path, output: Path) -> None:
    store = output.parent / "store"
    done = cluster.run(
        "bash", "slurm/pipeline.sh", "--corpus", whole_recipe.parent / "train", "--shards", "2", whole_recipe,
        "--output", output, f"data.stores=[{store}]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    jobs = dict(line.split()[0::2][:2] for line in done.stdout.splitlines())
    assert list(jobs) == ["preprocess", "join", "pretrain", "midtrain", "decay", "merge", "evaluate"]
    assert cluster.wait(jobs["evaluate"], 1500) == "COMPLETED 0:0", done.stdout
    assert (output / "hf/model.safetensors").is_file() and (output / "merged_bits_per_byte.json").is_file()
    assert all(
        newest_step(PhaseFolder(output, name).checkpoints)[1]
        for name in ("pretrain", "midtrain", "decay_eng", "decay_cont", "decay_all")
    )
    assert list((output / "report").iterdir())


def test_a_failing_stage_stops_what_depends_on_it(cluster: Cluster, whole_recipe: Path, output: Path) -> None:
    done = cluster.run("bash", "slurm/pipeline.sh", whole_recipe, "--output", output, "phases.pretrain.languages=[xyz]")
    jobs = dict(line.split()[0::2][:2] for line in done.stdout.splitlines())
    assert cluster.wait(jobs["pretrain"]) == "FAILED 2:0"
    until(lambda: cluster.field(jobs["evaluate"], "JobState") == "CANCELLED", 60, "the last job's end")
    for name in ("midtrain", "merge", "evaluate"):
        assert cluster.field(jobs[name], "JobState") == "CANCELLED", name
    assert "lack language 'xyz'" in cluster.log() and not (output / "midtrain").exists()
