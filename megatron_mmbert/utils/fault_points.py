"""Moments of a run at which a test may watch or disturb it; nothing happens there unless a test installs a handler.

Tests that harm a run on purpose (a NaN, a hang, a kill in the middle of a checkpoint) need to be called at an exact
moment. The product names those moments here and announces them with :func:`fault_point`, which costs one dictionary
lookup; tests install handlers and replace no function of the product. Product code installs none.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum
from typing import Any


class Moment(Enum):
    """The moments, and the values that a handler is called with."""

    LOADING = "(step): the packs of a step are about to be asked for; the step from 1"
    LOADED = "(packs): they are there, and the step begins"
    FORWARD = "(): the forward pass of one pack begins"
    LOSS = "(report): [summed loss, scored tokens] of one pack; a handler may change the tensor"
    GRADIENTS = "(chunks): the backward pass is over, this rank's gradients are not yet summed over ranks"
    STEP_END = "(): the step is over"
    TRAIN_END = "(trainer): the loop is over, the last checkpoint is committed"
    SHARD_BEGIN = "(staging path): a rank's file of a checkpoint is about to be written"
    SHARD_WRITE = "(cancelled): a part of that file is about to be written; the event says that the process ends"
    SHARD_SYNC = "(): the last bytes of that file are about to be seen on the disk"
    SHARD_END = "(staging path): that file is whole"
    COMMIT_BEGIN = "(staging path): rank 0 is about to commit a checkpoint"
    COMMIT_END = "(staging path): the checkpoint is committed"


Handler = Callable[..., None]
_handlers: dict[Moment, Handler] = {}


def fault_point(moment: Moment, *values: Any) -> None:
    """Announce ``moment``; it calls the handler that a test has installed for it."""
    handler = _handlers.get(moment)
    if handler is not None:
        handler(*values)


def install(moment: Moment, handler: Handler) -> None:
    """Have ``handler`` called at ``moment`` from now on, in this process and in those forked from it."""
    if moment in _handlers:
        raise ValueError(f"{moment.name}: has a handler already")
    _handlers[moment] = handler


@contextmanager
def installed(moment: Moment, handler: Handler) -> Iterator[None]:
    """Have ``handler`` called at ``moment`` while inside."""
    install(moment, handler)
    try:
        yield
    finally:
        del _handlers[moment]
