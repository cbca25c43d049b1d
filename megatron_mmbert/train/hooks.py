"""What happens beside the training itself: the log line, the metrics file, TensorBoard.

A hook is any object with some of the methods of :class:`Hook`; the loop calls them on rank 0 and knows nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from megatron_mmbert.train.progress import Progress


class Hook(Protocol):
    """Called by the loop on rank 0."""

    def on_step(self, progress: Progress) -> None:
        """After each optimizer step."""

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        """After held-out text was scored, by language."""

    def close(self) -> None:
        """At the end, also after an error."""


class Console:
    """One line per step."""

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._rate = 0.0

    def on_step(self, progress: Progress) -> None:
        # A running mean: single steps are noisy, and the ETA should not jump.
        self._rate = (
            progress.tokens_per_second if not self._rate else 0.9 * self._rate + 0.1 * progress.tokens_per_second
        )
        steps = progress.steps_in_all()
        if progress.step % self._every_steps and progress.step < steps:
            return
        seconds_left = max(0, progress.goal_tokens - progress.phase_tokens) / self._rate
        print(
            f"{progress.phase} step {progress.step:>{len(str(steps))}}/{steps} {progress.fraction:6.1%} | "
            f"loss {progress.loss:.4f} | lr {progress.lr:.2e} | {progress.tokens_per_second:,.0f} tok/s | "
            f"{progress.peak_share:.0%} of peak | eta {duration(seconds_left)}",
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

    def close(self) -> None:
        return


class MetricsFile:
    """Every number of every step as JSON lines, for plots and for programs.

    A resumed run appends; lines of steps after the checkpoint it resumed from are dropped first, so that no step
    stands twice.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in _lines(path) if json.loads(line)["step"] <= resumed_step]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def on_step(self, progress: Progress) -> None:
        values = {name: getattr(progress, name) for name in Progress.__dataclass_fields__}
        self._file.write(json.dumps(values) + "\n")
        self._file.flush()

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        return

    def close(self) -> None:
        self._file.close()


def _lines(path: Path) -> list[str]:
    """Whole lines of an earlier run; a line cut off by a kill is dropped."""
    if not path.exists():
        return []
    return [line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.endswith("}\n")]


class TensorBoard:
    """The same numbers for TensorBoard, over all tokens seen in the run."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(folder), purge_step=resumed_step + 1)

    def on_step(self, progress: Progress) -> None:
        for name in ("loss", "lr", "mask_ratio", "temperature", "tokens_per_second", "peak_share", "data_seconds"):
            self._writer.add_scalar(f"train/{name}", getattr(progress, name), progress.step)
        self._writer.add_scalar("train/total_tokens", progress.total_tokens, progress.step)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], progress_tokens: int) -> None:
        for language, value in bits_per_byte.items():
            self._writer.add_scalar(f"bits_per_byte/{language}", value, progress_tokens)

    def close(self) -> None:
        self._writer.close()


def duration(seconds: float) -> str:
    """``1d 03:04:05`` or ``0:04:05``."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock.removeprefix("0")
