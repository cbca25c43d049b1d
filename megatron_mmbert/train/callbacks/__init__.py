"""Callbacks of the training loop, one file each: the log line, metrics files, heartbeat, trackers, stop requests.

To add one, subclass :class:`Callback` in a new file and add it in :mod:`.from_recipe`.
"""

from __future__ import annotations

from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.callbacks.console import Console
from megatron_mmbert.train.callbacks.heartbeat import Heartbeat
from megatron_mmbert.train.callbacks.jsonl import HeldOutFile, MetricsFile
from megatron_mmbert.train.callbacks.tolerant import Tolerant

__all__ = ["Callback", "Console", "Heartbeat", "HeldOutFile", "MetricsFile", "Tolerant"]
