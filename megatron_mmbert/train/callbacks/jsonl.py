"""Metrics of every step and held-out scores as JSON lines, cut back to the checkpoint on resume."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from megatron_mmbert.builders.run_folder import keep_old, warn
from megatron_mmbert.train.callbacks.base import Callback
from megatron_mmbert.train.metrics import StepMetrics
from megatron_mmbert.utils.files import atomic_file, sync_name, to_json


class MetricsFile(Callback):
    """Every number of every step as JSON lines, for plots and for programs.

    A resumed run appends; lines of steps after the checkpoint it resumed from are dropped first, so that no step
    stands twice. While they cannot be written they are kept, and follow when there is room.
    """

    def __init__(self, path: Path, resumed_step: int) -> None:
        _cut_back(path, resumed_step > 0, lambda line: line["step"] <= resumed_step)
        self._file = path.open("ab", buffering=0)
        sync_name(path)
        self._pending = b""

    def on_step(self, metrics: StepMetrics) -> None:
        self._pending += to_json(metrics.to_json()).encode() + b"\n"
        self._write()

    def on_save_begin(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        try:
            self._write()
        finally:
            self._file.close()

    def _write(self) -> None:
        while self._pending:
            # Of a nearly full disk, part of a line may be taken: the rest must come right after it.
            self._pending = self._pending[self._file.write(self._pending) :]


class HeldOutFile(Callback):
    """Held-out bits per byte of every scoring as JSON lines: the moment, tokens over all phases, values by language.

    As in :class:`MetricsFile`, a resumed run appends to the lines up to the checkpoint it resumed from.
    """

    def __init__(self, path: Path, resumed_step: int, resumed_tokens: int) -> None:
        # A run that has taken no step scores again before its first.
        _cut_back(path, resumed_step > 0, lambda line: line["total_tokens"] <= resumed_tokens)
        self._path = path

    def on_scores(self, moment: str, bits_per_byte: Mapping[str, float], total_tokens: int) -> None:
        line = {"moment": moment, "total_tokens": total_tokens, "bits_per_byte": dict(bits_per_byte)}
        with self._path.open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")
            file.flush()
            os.fsync(file.fileno())
        sync_name(self._path)


def _cut_back(path: Path, resumes: bool, keep: Callable[[dict[str, Any]], bool]) -> None:
    """Leave the lines of ``path`` that ``keep`` accepts; a line cut off by a kill is dropped.

    Where the phase begins anew, or where lines are damaged (a loss of power can leave zeros), the file as it was is
    kept under another name: a mistake must not cost what a month of training has written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        return
    content = path.read_bytes()
    lines = content[: content.rfind(b"\n") + 1].splitlines(keepends=True)
    read = [_parsed(line, keep) for line in lines]
    kept = b"".join(line for line, accepted in zip(lines, read, strict=True) if accepted) if resumes else b""
    damaged = sum(accepted is None for accepted in read)
    if damaged or (lines and not resumes):
        old = keep_old(path)
        what = f"{damaged} damaged lines were cut off" if damaged else "the phase begins anew"
        warn(f"{path}: {what}; the file as it was is {old.name}")
    with atomic_file(path) as staging:
        staging.write_bytes(kept)


def _parsed(line: bytes, keep: Callable[[dict[str, Any]], bool]) -> bool | None:
    """Return what ``keep`` says of a line; None for one that is damaged."""
    try:
        return bool(keep(json.loads(line)))
    except (ValueError, KeyError, TypeError):
        return None
