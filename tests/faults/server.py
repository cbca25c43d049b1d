"""Runs commands in forked children of a process that has imported everything: a try takes the command's own time alone.

Started with the library of :mod:`shim` preloaded; reads one JSON order per line from stdin and answers with one line.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import shim

_HERE = Path(__file__).resolve()


class Server:
    """A fork server; one command at a time."""

    def __init__(self) -> None:
        paths = [str(_HERE.parents[2]), str(_HERE.parents[1]), str(_HERE.parent), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", str(_HERE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"LD_PRELOAD": str(shim.build()), "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":
            raise RuntimeError("the fork server did not start")

    def run(
        self,
        argv: list[str],
        cwd: Path,
        log: Path,
        below: Path,
        fault: shim.Fault | None = None,
        limit: float = 60.0,
        files: int | None = None,
    ) -> dict[str, Any]:
        """Run ``mmbert ARGV``; returns ``status`` (negative: the signal), ``hang``, ``counts``, ``fired``.

        Args:
            below: the folder whose operations count and fail.
            log: takes what the command prints.
            limit: seconds after which it counts as hanging and is killed with all that it started.
            files: the limit of open files.
        """
        order = {
            "argv": argv,
            "cwd": str(cwd),
            "log": str(log),
            "below": str(below),
            "limit": limit,
            "files": files,
            "fault": asdict(fault) if fault else None,
        }
        assert self._process.stdin is not None and self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)


def _child(order: dict[str, Any], library: ctypes.CDLL) -> None:
    from megatron_mmbert import cli
    from megatron_mmbert.utils.errors import run_command

    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.close(log)
    os.chdir(order["cwd"])
    if order["files"]:
        resource.setrlimit(resource.RLIMIT_NOFILE, (order["files"], order["files"]))
    fault = shim.Fault(**order["fault"]) if order["fault"] else None
    shim.arm(library, Path(order["below"]), fault)
    sys.argv = ["mmbert", *order["argv"]]
    status = 70
    try:
        run_command(lambda: cli.run_cli(order["argv"]))
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


def _wait(child: int, limit: float) -> tuple[int, bool]:
    deadline = time.monotonic() + limit
    while time.monotonic() < deadline:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            _end_group(child)
            return os.waitstatus_to_exitcode(status), False
        time.sleep(0.005)
    _end_group(child)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), True


def _end_group(child: int) -> None:
    try:
        os.killpg(child, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        pass


def _serve() -> None:
    library = ctypes.CDLL(None)
    library.fault_page()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _import_all()
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        started = time.monotonic()
        child = os.fork()
        if child == 0:
            _child(order, library)
        status, hang = _wait(child, order["limit"])
        counts = {kind: library.fault_count(number) for number, kind in enumerate(shim.KINDS)}
        answer = {
            "status": status,
            "hang": hang,
            "counts": counts,
            "fired": bool(library.fault_fired()),
            "seconds": time.monotonic() - started,
        }
        print(json.dumps(answer), file=answers, flush=True)


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
    _serve()
