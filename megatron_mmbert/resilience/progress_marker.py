"""Where this rank's training stands, for a thread that asks: the place it named last, and how many it has named.

All ranks name the same places in the same order, so that the rank with the lower count is behind.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from types import FrameType

# Where a rank waits for others. Waiting for a GPU is not seen: then the count alone tells ranks apart.
_WAITING_FILES = ("distributed_c10d.py", "p2p_communication.py")
_WAITING_FUNCTIONS = ("finish_grad_sync", "finish_param_sync")


@dataclass(frozen=True)
class ProgressMarker:
    """The ``count``-th place, and whether the main thread is in an exchange with other ranks."""

    count: int
    place: str
    waits: bool


_last = (0, "the start-up")
_step: int | None = None


def at(place: str, step: int | None = None) -> None:
    """This rank has come to ``place``, of optimizer step ``step`` (None: of the same as before); costs nothing."""
    global _last, _step
    _step = _step if step is None else step
    _last = (_last[0] + 1, place if _step is None else f"{place} of step {_step}")


def now() -> ProgressMarker:
    """For another thread than the main one, which must not be asked itself: it may hang."""
    count, place = _last
    return ProgressMarker(count, place, _waits(sys._current_frames().get(threading.main_thread().ident or 0)))


def _waits(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(_WAITING_FILES) or code.co_name in _WAITING_FUNCTIONS:
            return True
        frame = frame.f_back
    return False
