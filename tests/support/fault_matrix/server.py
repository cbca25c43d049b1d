"""Runs commands in forked children of a process that has imported everything: a try takes the command's own time alone.

Started with the library of :mod:`.shim` preloaded; reads one JSON order per line from stdin and answers with one line.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from support import ROOT
from support.fault_matrix import shim

AGENT_SECONDS = 8.0
KILL_SECONDS = 20.0  # as torchrun, which kills 30 s after it has asked
"""After so many seconds ranks are told to end when one has failed."""


@dataclass(frozen=True)
class Answer:
    """How an order ended.

    Attributes:
        statuses: of each process that was started: its exit status, or minus the signal that ended it.
        logs: what each printed.
        counts: operations of each kind on watched files.
        fired: whether the fault came.
    """

    statuses: tuple[int, ...]
    logs: tuple[str, ...]
    hang: bool
    counts: dict[str, int]
    fired: bool
    seconds: float

    @property
    def log(self) -> str:
        return "".join(self.logs)


@dataclass(frozen=True)
class Order:
    """What to run: processes that start together.

    Attributes:
        commands: arguments of ``mmbert``, one list for each process.
        delays: seconds that each process waits before it starts.
        ranks: whether the processes are the ranks of one training.
        below: the folder whose operations count, fail and are recorded.
        cwd: where the commands run.
        record: a new folder that takes the record for a loss of power; None for none.
        kill_after: seconds after which all are killed; None for never.
        limit: seconds after which it counts as hanging, and all are killed.
        files: the limit of open files.
    """

    commands: tuple[tuple[str, ...], ...]
    below: Path
    cwd: Path
    fault: shim.Fault | None = None
    delays: tuple[float, ...] = ()
    ranks: bool = False
    record: Path | None = None
    kill_after: float | None = None
    limit: float = 60.0
    files: int | None = None


class Server:
    """A fork server; one order at a time.

    Args:
        folder: takes what the commands print.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._logs = folder
        paths = [str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"LD_PRELOAD": str(shim.build()), "PYTHONPATH": os.pathsep.join(paths)}
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "support.fault_matrix.server", str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"OMP_NUM_THREADS": "1"},
        )
        self._is_ready = False

    def run(self, order: Order) -> Answer:
        """Run the order; returns when all of its processes have ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        if not self._is_ready and self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the fork server did not start")
        self._is_ready = True
        print(json.dumps(asdict(order), default=str), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        logs = tuple(
            (self._logs / f"log-{number}").read_text(errors="replace") for number in range(len(order.commands))
        )
        return Answer(tuple(answer.pop("statuses")), logs, **answer)

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def _child(order: dict[str, Any], number: int, logs: Path, library: ctypes.CDLL, environment: dict[str, str]) -> None:
    from megatron_mmbert import cli
    from megatron_mmbert.utils.errors import run_command

    os.setsid()
    os.environ.update(environment)
    log = os.open(logs / f"log-{number}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(log)
    os.chdir(order["cwd"])
    if order["files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["files"], order["files"]))
    argv = order["commands"][number]
    sys.argv = ["mmbert", *argv]
    time.sleep((order["delays"] or [0.0] * (number + 1))[number])
    status = 70
    try:
        run_command(lambda: cli.run_cli(argv))
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else (0 if ended.code is None else 1)
    except BaseException:
        import traceback

        traceback.print_exc()
        status = 1
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                pass
        os._exit(status)


def _wait(children: Sequence[int], order: dict[str, Any]) -> tuple[list[int], bool]:
    """Wait for all; returns their statuses and whether they had to be ended. Nothing of them is left running."""
    started = time.monotonic()
    statuses: dict[int, int] = {}
    hangs = killed = told = forced = False
    failed_at = 0.0
    while len(statuses) < len(children):
        for child in set(children) - statuses.keys():
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                statuses[child] = os.waitstatus_to_exitcode(status)
                _end_groups([child])
        passed = time.monotonic() - started
        hangs = hangs or passed > order["limit"]
        if order["ranks"] and any(statuses.values()):
            # As torchrun's agent does when a rank has failed; not at once, for ranks are to see it themselves.
            failed_at = failed_at or passed
            if passed > failed_at + AGENT_SECONDS and not told:
                told = True
                _send(set(children) - statuses.keys(), signal.SIGTERM)
            if passed > failed_at + AGENT_SECONDS + KILL_SECONDS and not forced:
                forced = True
                _end_groups(set(children) - statuses.keys())
        if hangs or (order["kill_after"] is not None and passed > order["kill_after"] and not killed):
            killed = True
            _end_groups(set(children) - statuses.keys())
        time.sleep(0.002)
    return [statuses[child] for child in children], hangs


def _end_groups(leaders: Sequence[int] | set[int]) -> None:
    _send(leaders, signal.SIGKILL)


def _send(leaders: Sequence[int] | set[int], number: signal.Signals) -> None:
    for leader in leaders:
        try:
            os.killpg(leader, number)
        except (ProcessLookupError, PermissionError):
            pass


def _environments(order: dict[str, Any]) -> list[dict[str, str]]:
    count = len(order["commands"])
    if not order["ranks"]:
        return [{}] * count
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    return [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


def _run(order: dict[str, Any], logs: Path, library: ctypes.CDLL) -> dict[str, Any]:
    started = time.monotonic()
    fault = shim.Fault(**order["fault"]) if order["fault"] else None
    shim.arm(library, Path(order["below"]), fault)
    record = shim.record(library, Path(order["record"])) if order["record"] else None
    children = []
    for number, environment in enumerate(_environments(order)):
        child = os.fork()
        if child == 0:
            _child(order, number, logs, library, environment)
        children.append(child)
    statuses, hang = _wait(children, order)
    library.fault_disarm()
    if record is not None:
        os.close(record)
    return {
        "statuses": statuses,
        "hang": hang,
        "counts": {kind: library.fault_count(number) for number, kind in enumerate(shim.KINDS)},
        "fired": bool(library.fault_fired()),
        "seconds": time.monotonic() - started,
    }


def _serve(logs: Path) -> None:
    library = ctypes.CDLL(None)
    library.fault_page()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_all()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(_run(json.loads(line), logs, library)), file=answers, flush=True)


def _import_all() -> None:
    """Import what commands import late, and begin no threads: a fork has the one thread that forked alone."""
    import importlib
    import pkgutil

    import megatron_mmbert

    for module in pkgutil.walk_packages(megatron_mmbert.__path__, "megatron_mmbert."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    for name in ("transformers", "pyarrow.parquet", "safetensors.torch", "matplotlib.pyplot", "sentencepiece"):
        importlib.import_module(name)


if __name__ == "__main__":
    _serve(Path(sys.argv[1]))
