"""The log line of each step, scores and checkpoints on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics


class Console(Callback):
    """One line per step."""

    def __init__(self, every_steps: int) -> None:
        self._every_steps = every_steps
        self._rate = 0.0

    def on_step(self, metrics: StepMetrics) -> None:
        # A running mean: single steps are noisy, and the ETA should not jump.
        rate = metrics.tokens_per_second
        self._rate = 0.9 * self._rate + 0.1 * rate if self._rate else rate
        steps = metrics.total_steps()
        if metrics.step % self._every_steps and metrics.step < steps:
            return
        seconds_left = max(0, metrics.goal_tokens - metrics.phase_tokens) / self._rate
        begin = f"{metrics.phase} step {metrics.step:>{len(str(steps))}}/{steps} {metrics.fraction:6.1%}"
        print(" | ".join([begin, *metrics.columns(), f"eta {duration(seconds_left)}"]), flush=True)

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
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


def duration(seconds: float) -> str:
    """Return ``1d 03:04:05`` or ``0:04:05``."""
    days, rest = divmod(round(seconds), 86_400)
    hours, rest = divmod(rest, 3600)
    clock = f"{hours:02d}:{rest // 60:02d}:{rest % 60:02d}"
    return f"{days}d {clock}" if days else clock.removeprefix("0")
