"""Progress marker of the training thread, read by the monitor thread: the stage it reached last, and a counter.

All ranks mark the same stages in the same order, so that the rank with the lower count is the one that the others wait
for. The stages are an enumeration: a name written differently in one place would set the counts of ranks apart.
"""

from __future__ import annotations

import sys
import threading
from dataclasses import dataclass
from enum import Enum
from types import FrameType

# Where a rank waits for others. Waiting for a GPU is not seen: then the count alone tells ranks apart.
_WAITING_FILES = ("distributed_c10d.py", "p2p_communication.py")
_WAITING_FUNCTIONS = ("finish_grad_sync", "finish_param_sync")


class Stage(Enum):
    """The stages of a run, as they stand in the sentence about a hang."""

    START_UP = "the start-up"
    RESUME_CHECK = "the recorded batch"
    DATA = "the data"
    FORWARD_BACKWARD = "the forward and backward pass"
    GRADIENT_SUM = "the sum of gradients"
    UPDATE = "the update"
    HELD_OUT = "held-out text"
    CHECKPOINT = "a checkpoint"
    LAST_CHECKPOINT = "the last checkpoint"


@dataclass(frozen=True)
class ProgressMarker:
    """A rank's progress.

    Attributes:
        count: how many stages it has marked.
        stage: the last of them in words, ``the data of step 7``.
        waits: the main thread is in an exchange with other ranks.
    """

    count: int
    stage: str
    waits: bool


_last = (0, Stage.START_UP.value)
_step: int | None = None


def mark(stage: Stage, step: int | None = None) -> None:
    """Note that this rank has reached ``stage``; costs nothing.

    Args:
        step: the optimizer step that the stage belongs to; None: the same as before.
    """
    global _last, _step
    _step = _step if step is None else step
    _last = (_last[0] + 1, stage.value if _step is None else f"{stage.value} of step {_step}")


def read() -> ProgressMarker:
    """Return this rank's progress; for another thread than the main one, which may hang."""
    count, stage = _last
    return ProgressMarker(count, stage, _waits(sys._current_frames().get(threading.main_thread().ident or 0)))


def _waits(frame: FrameType | None) -> bool:
    while frame is not None:
        code = frame.f_code
        if code.co_filename.endswith(_WAITING_FILES) or code.co_name in _WAITING_FUNCTIONS:
            return True
        frame = frame.f_back
    return False
