"""A real Slurm of three hosts on this machine, and a project root to submit from: the scripts as they are, one site.

Root is needed; Debian packages are installed when they are missing."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from support import ROOT

TOOL = Path(__file__).with_name("slurm-local")
SITE = """
SITE_SBATCH=(--nice=0) SITE_SBATCH_CPU=() SITE_NODES=2 SITE_CONTAINER=()
: "${MMBERT_PROCESSES_PER_NODE:=1}"
MMBERT_NEEDS_GPUS=no MMBERT_MIN_FREE_GB=0.5 MMBERT_MAX_STALLS=2
: "${MMBERT_HANG_SECONDS:=600}"
site_setup() { export OMP_NUM_THREADS=1; }
"""


class Cluster:
    """Starts and stops the daemons; submits, waits, and breaks things."""

    def __init__(self, folder: Path) -> None:
        self.state = Path(f"/tmp/slurm-tests-{os.getpid()}")  # sockets want a short path
        self.root = folder / "project"
        self._environment = dict(os.environ) | {
            "SLURM_LOCAL_DIR": str(self.state),
            "SLURM_LOCAL_NODES": "3",
            "SLURM_LOCAL_SUBNET": f"10.213.{os.getpid() % 200 + 20}",
        }
        self._lay_out_root()

    def _lay_out_root(self) -> None:
        self.root.mkdir(parents=True)
        for name in ("megatron_mmbert", "tools", "examples"):
            (self.root / name).symlink_to(ROOT / name)
        shutil.copytree(ROOT / "slurm", self.root / "slurm")
        (self.root / "slurm/site.sh").write_text(SITE + f"PYTHON={sys.executable}\n")

    def tool(self, *arguments: object, check: bool = True) -> str:
        """Run the cluster's own tool; returns what it printed."""
        command = ["bash", str(TOOL), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=self._environment)
        assert not check or done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout

    def start(self) -> None:
        self.tool("start")
        commands = f"{self.state}/bin{os.pathsep}{os.environ['PATH']}"
        self._environment |= {"PATH": commands, "SLURM_CONF": f"{self.state}/etc/slurm.conf"}

    def stop(self) -> None:
        self.tool("stop", check=False)
        shutil.rmtree(self.state, ignore_errors=True)

    def run(self, *command: object, environment: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        """A command on the login host, in the project's root."""
        env = self._environment | dict(environment or {})
        return subprocess.run([*map(str, command)], capture_output=True, text=True, env=env, cwd=self.root)

    def sbatch(self, *arguments: object, environment: Mapping[str, str] | None = None) -> str:
        """Submit; returns the job's number."""
        done = self.run("sbatch", "--parsable", *arguments, environment=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def wait(self, job: str, seconds: float = 600) -> str:
        """``COMPLETED 0:0`` and the like."""
        return self.tool("wait", job, int(seconds), check=False).strip()

    def field(self, job: str, name: str) -> str:
        found = re.search(rf"\b{name}=(\S*)", self.run("scontrol", "-o", "show", "job", job).stdout)
        return found[1] if found else ""

    def log(self, pattern: str = "*.out") -> str:
        """All that the jobs' own logs say."""
        return "\n".join(path.read_text(errors="replace") for path in sorted(self.root.glob(pattern)))


def until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for ``condition``."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s: {what}"
        time.sleep(0.3)
