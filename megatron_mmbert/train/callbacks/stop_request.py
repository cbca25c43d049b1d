"""Stop requests: a signal from the scheduler, or the end of the time it gave, ends the run before its phase does.

A signal only sets a flag. The loop asks between steps, all ranks agree, and the run saves and ends; so a stop costs no
work and looks the same whatever asked for it. A second SIGTERM ends the process at once.

The signals are blocked and a thread waits for them. Python's own handlers run only between two lines of Python: a rank
that hangs in a collective would not hear a second signal. A scheduler signals every process of a job: the data workers,
which are processes of their own, ignore these signals (``data.loading.prefetch``); checkpoints are written by threads.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics

DEFAULT_SIGNALS = ("SIGTERM", "SIGUSR1", "SIGUSR2")
END_TIME_VARIABLE = "MMBERT_END_TIME"
_UNKNOWN_SAVE = 60.0  # seconds, until one was seen
_MARGIN = 2.0
_REPEATED = 3.0  # seconds: a scheduler and a launcher both pass the same signal on, which is no second request


class StopRequest(Callback):
    """A request to stop this process, by a signal or because its time is nearly up.

    Also a callback: it sees how long steps and saves take, to stop in time.

    Attributes:
        end_time: seconds since 1970 at which the process will be ended from outside; None: unknown.
    """

    def __init__(self, signals: Sequence[str] = DEFAULT_SIGNALS, end_time: float | None = None) -> None:
        self.end_time = end_time
        self._longest_step, self._longest_save = 0.0, _UNKNOWN_SAVE
        self._seen: tuple[str, float] | None = None
        self._numbers = [signal.Signals[name] for name in signals]
        self._over = False
        for number in self._numbers:
            # For a thread that was there before and does not block them: without a handler it would be deadly.
            signal.signal(number, self._on_signal)
        signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        while not self._over:
            came = signal.sigtimedwait(self._numbers, 0.2)
            if came is not None:
                self._on_signal(came.si_signo)

    def _on_signal(self, number: int, frame: FrameType | None = None) -> None:
        if self._over:
            return
        name, now = signal.Signals(number).name, time.monotonic()
        # The scheduler's warning is repeated until the job ends, so only a request to terminate means "at once".
        if self._seen is not None and name in ("SIGTERM", "SIGINT") and now - self._seen[1] > _REPEATED:
            os.write(2, f"second signal ({name}): ending at once, without saving\n".encode())
            os._exit(128 + number)
        if self._seen is None:
            self._seen = (name, now)

    def reason(self) -> str | None:
        """Return the signal's name, or that the time is up; None to continue. Once there is one, it stays."""
        if self._seen is None and self.end_time is not None:
            needed, left = _MARGIN * (self._longest_step + self._longest_save), self.end_time - time.time()
            if left < needed:
                reason = f"{max(0, left):.0f} s are left, a step and a save may need {needed:.0f}"
                self._seen = (reason, time.monotonic())
        return None if self._seen is None else self._seen[0]

    def on_step(self, metrics: StepMetrics) -> None:
        self._longest_step = max(self._longest_step, metrics.seconds)

    def on_save(self, path: Path, stalled: float, wrote: float) -> None:
        self._longest_save = max(wrote, 0.0 if self._longest_save == _UNKNOWN_SAVE else self._longest_save)

    def ignore(self) -> None:
        """Ignore signals from here on: the work is saved, and a late signal must not kill Python's own end."""
        self._over = True


def end_time_of(environment: Mapping[str, str]) -> float | None:
    """Return the end that a job script learned from its scheduler, in seconds since 1970; None: unknown."""
    value = environment.get(END_TIME_VARIABLE, "")
    return float(value) if value.replace(".", "", 1).isdigit() else None
