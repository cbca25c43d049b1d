"""Progress of a long command in bytes: a bar on a terminal, a line every ten seconds in a log."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TextIO

from tqdm import tqdm

SECONDS_PER_LINE = 10.0


class ByteProgress:
    """Counts bytes done of ``total``; a context manager, called by :meth:`add`."""

    def __init__(self, what: str, total: int, stream: TextIO | None = None) -> None:
        self._what = what
        self._total = total
        self._stream = stream or sys.stderr
        self._done = self._done_at_start = 0
        self._start: float | None = None
        self._last_line = 0.0
        self._bar = (
            tqdm(total=total, desc=what, unit="B", unit_scale=True, file=self._stream)
            if self._stream.isatty()
            else None
        )

    def add(self, done: int) -> None:
        """Count ``done`` more bytes."""
        self._done += done
        now = time.monotonic()
        if self._start is None:
            # The clock starts here: what came before is imports and worker processes, and would spoil the forecast.
            self._start = self._last_line = now
            self._done_at_start = self._done
        if self._bar is not None:
            self._bar.update(done)
        elif now - self._last_line >= SECONDS_PER_LINE:
            self._last_line = now
            rate = (self._done - self._done_at_start) / (now - self._start)
            left = (self._total - self._done) / rate if rate else float("inf")
            print(
                f"{self._what}: {self._done / max(self._total, 1):.1%} of {self._total / 1e6:.1f} MB, "
                f"{rate / 1e6:.2f} MB/s, {left:.0f} s left",
                file=self._stream,
                flush=True,
            )

    def __enter__(self) -> ByteProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.close()
