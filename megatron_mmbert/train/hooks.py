"""What happens beside the training itself: the log line, the metrics file, the sign of life.

A callback is a subclass of :class:`Callback`; the loop calls them on rank 0 and knows nothing more. Those that need a
service or an optional package are in :mod:`.trackers`.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_mmbert.train.metrics import StepMetrics


class Callback:
    """Called by the loop on rank 0; each method does nothing unless a subclass says otherwise."""

    def on_step(self, progress: StepMetrics) -> None:
        """After each optimizer step."""

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        """After held-out text was scored, by language."""

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        """After a checkpoint was committed: seconds that training stood still for it, and from its begin to its end."""

    def on_event(self, kind: str, text: str) -> None:
        """Something out of the ordinary: a skipped step, a rewind, a slow rank."""

    def close(self) -> None:
        """At the end, also after an error."""


class Console(Callback):
    """One line per step."""

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._rate = 0.0

    def on_step(self, progress: StepMetrics) -> None:
        # A running mean: single steps are noisy, and the ETA should not jump.
        self._rate = (
            progress.tokens_per_second if not self._rate else 0.9 * self._rate + 0.1 * progress.tokens_per_second
        )
        steps = progress.total_steps()
        if progress.step % self._every_steps and progress.step < steps:
            return
        seconds_left = max(0, progress.goal_tokens - progress.phase_tokens) / self._rate
        print(
            f"{progress.phase} step {progress.step:>{len(str(steps))}}/{steps} {progress.fraction:6.1%} | "
            f"loss {progress.loss:.4f} | lr {progress.lr:.2e} | {progress.tokens_per_second:,.0f} tok/s | "
            f"{progress.mfu:.0%} of peak | eta {duration(seconds_left)}",
            flush=True,
        )

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        mean = sum(bits_per_byte.values()) / len(bits_per_byte)
        ordered = sorted(bits_per_byte, key=bits_per_byte.__getitem__)
        best, worst = ordered[0], ordered[-1]
        print(
            f"held-out {moment}: {mean:.3f} bits per byte over {len(bits_per_byte)} languages "
            f"(best {best} {bits_per_byte[best]:.3f}, worst {worst} {bits_per_byte[worst]:.3f})",
            flush=True,
        )

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        print(f"saved {path} (training stood still for {stalled:.2f} s, written in {wrote:.1f} s)", flush=True)

    def on_event(self, kind: str, text: str) -> None:
        print(f"{kind}: {text}", flush=True)


class MetricsFile(Callback):
    """Every number of every step as JSON lines, for plots and for programs.

    A resumed run appends; lines of steps after the checkpoint it resumed from are dropped first, so that no step
    stands twice. While they cannot be written they are kept, and follow when there is room.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= resumed_step]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("ab", buffering=0)
        self._pending = b""

    def on_step(self, progress: StepMetrics) -> None:
        values = {name: getattr(progress, name) for name in StepMetrics.__dataclass_fields__}
        self._pending += json.dumps(values).encode() + b"\n"
        self._write()

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        while self._pending:
            # Of a nearly full disk, part of a line may be taken: the rest must come right behind it.
            self._pending = self._pending[self._file.write(self._pending) :]


class HeldOutFile(Callback):
    """Held-out bits per byte of every scoring as JSON lines: the moment, tokens over all phases, values by language.

    As :class:`MetricsFile`, a resumed run appends behind the lines of what it has behind it.
    """

    def __init__(self, path: Path, resumed_step: int, resumed_tokens: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A run that has taken no step scores again before its first.
        kept = [line for line in _lines(path) if resumed_step and json.loads(line)["total_tokens"] <= resumed_tokens]
        path.write_text("".join(kept), encoding="utf-8")
        self._path = path

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        line = {"moment": moment, "total_tokens": progress_tokens, "bits_per_byte": dict(bits_per_byte)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _lines(path: Path) -> list[str]:
    """Whole lines of an earlier run; a line cut off by a kill is dropped."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


class Heartbeat(Callback):
    """A small file that outside watchers look at: its age says whether training lives, its content how far it is."""

    _EVERY = 1.0  # seconds

    def __init__(self, path: Path) -> None:
        self._path, self._written = path, 0.0
        self._write({"state": "starting"})

    def on_step(self, progress: StepMetrics) -> None:
        if time.monotonic() - self._written >= self._EVERY:
            names = ("phase", "step", "phase_tokens", "goal_tokens", "loss")
            self._write({"state": "training"} | {name: getattr(progress, name) for name in names})

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        self._write({"state": f"scored held-out text {moment}"})

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        self._write({"state": "saved", "checkpoint": path.name})

    def close(self) -> None:
        self._write({"state": "ended"})

    def _write(self, values: dict[str, object]) -> None:
        # Renamed into place so that a reader never sees half of it; not synced, as only a living reader cares.
        aside = self._path.with_name(f".{self._path.name}.{os.getpid()}.tmp")
        try:
            aside.write_text(json.dumps(values | {"pid": os.getpid(), "time": time.time()}) + "\n", encoding="utf-8")
            os.replace(aside, self._path)
        finally:
            aside.unlink(missing_ok=True)
        self._written = time.monotonic()


class Tolerant(Callback):
    """Around a hook that writes files: that it cannot is said, every now and then, and training goes on."""

    _EVERY = 600.0  # seconds

    def __init__(self, callback: Callback) -> None:
        self._hook, self._warned = callback, -math.inf

    def on_step(self, progress: StepMetrics) -> None:
        self._call(self._hook.on_step, progress)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        self._call(self._hook.on_scores, moment, bits_per_byte, progress_tokens)

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        self._call(self._hook.on_save, path, stalled, wrote)

    def on_event(self, kind: str, text: str) -> None:
        self._call(self._hook.on_event, kind, text)

    def close(self) -> None:
        self._call(self._hook.close)

    def _call(self, method: Callable[..., None], *values: Any) -> None:
        try:
            method(*values)
        except OSError as error:
            if time.monotonic() - self._warned >= self._EVERY:
                print(f"warning: {type(self._hook).__name__} cannot write ({error}); training goes on", flush=True)
                self._warned = time.monotonic()


def duration(seconds: float) -> str:
    """``1d 03:04:05`` or ``0:04:05``."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock.removeprefix("0")
