"""Callbacks of the training loop, one file each: log line, metrics files, held-out scores, trackers, stop requests.

To add one, subclass :class:`Callback` in a new file and add a line in :mod:`.from_recipe`.
"""

from __future__ import annotations

from megatron_mmbert.train.callbacks.base import Callback, CallbackList
from megatron_mmbert.train.callbacks.console import Console
from megatron_mmbert.train.callbacks.heartbeat import Heartbeat
from megatron_mmbert.train.callbacks.jsonl import HeldOutFile, MetricsFile
from megatron_mmbert.train.callbacks.tolerant import Tolerant

__all__ = ["Callback", "CallbackList", "Console", "Heartbeat", "HeldOutFile", "MetricsFile", "Tolerant"]
