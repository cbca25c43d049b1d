"""Every GPU figure of this project, in three parts of at most nine minutes on a machine with one GPU and no network.

    python benchmarks/gpu.py --part 1 --out DIR      # versions, ceilings, tests/gpu, FP8 linears, engines, head, doctor
    python benchmarks/gpu.py --part 2 --out DIR      # training tokens/s over sizes, lengths, layers, FP8, engines
    python benchmarks/gpu.py --part 3 --out DIR      # transformers' ModernBERT, losses of BF16 and FP8, encoding
    python benchmarks/gpu.py --part 1 --out DIR --smoke      # the same code, tiny, on any CPU

Documents are synthetic (gpu_packs.py). Measurements run in a process beside this one, the most important first; after
each, DIR/part-N.json is written whole. One that fails or hangs is named with its reason, and the rest go on in a new
process; what time is too short for is named too. Not yet run on a GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from results import machine

from megatron_mmbert.utils.errors import UserError, run_command
from megatron_mmbert.utils.files import write_json

PART_SECONDS = 530.0
_LEAST_SECONDS = 15.0  # no measurement is begun with less
_MARK = "@gpu "
_LOST = ("CUDA error", "CUDNN_STATUS", "CUBLAS_STATUS", "device-side assert")  # after these a process is of no use


def main() -> None:
    args = _arguments()
    if args.worker:
        _work(args.part, args.smoke, json.loads(args.worker))
        return
    import torch

    if not args.smoke and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here; use --smoke to try the code on a CPU")
    args.out.mkdir(parents=True, exist_ok=True)
    run = Part(args.part, args.smoke, args.seconds, args.out / f"part-{args.part}.json")
    run.all()
    from gpu_summary import lines

    print("\n".join(lines(run.record)))
    print(f"wrote {run.path}")


class Part:
    """One part's measurements and their record."""

    def __init__(self, part: int, smoke: bool, seconds: float, path: Path) -> None:
        from gpu_jobs import jobs

        self.part, self.smoke, self.path = part, smoke, path
        self.jobs = {job.name: job for job in jobs(part)}
        self.end = time.monotonic() + seconds
        self.record: dict[str, Any] = {"part": part, "smoke": smoke, "machine": machine("torch", "megatron-core")}
        self.record |= {"results": {}, "seconds": {}, "left_out": {}}

    def all(self) -> None:
        """Run what there is time for."""
        left = list(self.jobs)
        while left and self._remaining() >= _LEAST_SECONDS:
            left = self._one_process(left)
        for name in left:
            self.record["left_out"][name] = "the part's time was up"
        write_json(self.path, self.record)

    def _remaining(self) -> float:
        return self.end - time.monotonic()

    def _one_process(self, names: list[str]) -> list[str]:
        """Measure ``names`` in a new process until it ends or has to be ended; returns those still to measure."""
        process = _start(self.part, self.smoke, names)
        lines = _lines_of(process)
        names, current, limit = list(names), None, min(120.0, self._remaining())
        while True:
            message = _next(lines, limit)
            if message is None:  # the process is gone, hangs, or there is no more time
                gone = _stop(process)
                if names:
                    late = "the part's time was up" if self._remaining() < 1 else f"took longer than {limit:.0f} s"
                    self._note(current or names[0], None, f"its process died ({process.returncode})" if gone else late)
                    names.remove(current or names[0])
                return names
            name = message["name"]
            if message["event"] == "begin":
                current, limit = name, min(self.jobs[name].seconds, self._remaining())
                continue
            self._note(name, message.get("result"), message.get("reason"), message["seconds"])
            names.remove(name)
            if not names or message.get("lost") or self._remaining() < _LEAST_SECONDS:
                _stop(process)
                return names
            current, limit = None, min(60.0, self._remaining())

    def _note(self, name: str, result: Any, reason: str | None, seconds: float = 0.0) -> None:
        if reason is None:
            self.record["results"][name] = result
        else:
            self.record["left_out"][name] = reason
        self.record["seconds"][name] = round(seconds, 1)
        print(f"  {name}: {'done' if reason is None else reason} ({seconds:.0f} s)", flush=True)
        write_json(self.path, self.record)


def _start(part: int, smoke: bool, names: list[str]) -> subprocess.Popen[str]:
    command = [sys.executable, "-W", "ignore", "-u", __file__, "--part", str(part), "--worker", json.dumps(names)]
    environment = os.environ | {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    return subprocess.Popen(
        [*command, *(["--smoke"] if smoke else [])],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def _lines_of(process: subprocess.Popen[str]) -> queue.Queue[str | None]:
    """The process's output, line by line, then None."""
    found: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        assert process.stdout is not None
        for line in process.stdout:
            found.put(line)
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    return found


def _next(lines: queue.Queue[str | None], seconds: float) -> dict[str, Any] | None:
    """The worker's next message; None if none comes in time or ever. What else it prints goes through."""
    end = time.monotonic() + seconds
    while True:
        try:
            line = lines.get(timeout=max(0.1, end - time.monotonic()))
        except queue.Empty:
            return None
        if line is None:
            return None
        if line.startswith(_MARK):
            message: dict[str, Any] = json.loads(line.removeprefix(_MARK))
            return message
        print(f"    {line.rstrip()}", flush=True)
        if time.monotonic() > end:
            return None


def _stop(process: subprocess.Popen[str]) -> bool:
    """End the worker and what it started; whether it had ended by itself."""
    try:
        process.wait(timeout=1.0)
        gone = True
    except subprocess.TimeoutExpired:
        gone = False
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    return gone


def _work(part: int, smoke: bool, names: list[str]) -> None:
    """The process that measures."""
    from gpu_jobs import jobs
    from gpu_scale import FULL, SMOKE

    known = {job.name: job for job in jobs(part)}
    for name in names:
        _say({"event": "begin", "name": name})
        start = time.perf_counter()
        try:
            message = {"result": known[name].work(SMOKE if smoke else FULL)}
        except Exception as problem:
            traceback.print_exc()
            text = f"{type(problem).__name__}: {problem}"
            message = {"reason": " ".join(text.split())[:300], "lost": any(sign in text for sign in _LOST)}
        _say({"event": "end", "name": name, "seconds": time.perf_counter() - start, **message})


def _say(message: dict[str, Any]) -> None:
    print(f"{_MARK}{json.dumps(message)}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", type=int, choices=(1, 2, 3), required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/gpu"), metavar="DIR", help="for part-N.json (runs/gpu)")
    parser.add_argument("--seconds", type=float, default=PART_SECONDS, help="what the part may take (530)")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes on a CPU: only tries the code")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    run_command(main)
