"""The files of a run: OUT/PHASE/{checkpoints, metrics.jsonl, held_out.jsonl, recipe.yaml, ...}."""

from __future__ import annotations

import itertools
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_mmbert.utils.files import write_json


@dataclass(frozen=True)
class PhaseFolder:
    """The folder of one phase inside a run's output folder."""

    output: Path
    phase: str

    @property
    def path(self) -> Path:
        return self.output / self.phase

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def tensorboard(self) -> Path:
        return self.path / "tensorboard"

    @property
    def scores(self) -> Path:
        """Held-out bits per byte: ``{"before": {language: value}, "after": {...}}``."""
        return self.path / "bits_per_byte.json"

    @property
    def held_out(self) -> Path:
        """Held-out bits per byte of every scoring, also during the phase, as JSON lines."""
        return self.path / "held_out.jsonl"

    @property
    def heartbeat(self) -> Path:
        """Written anew as training lives; its age tells outside watchers more than its content."""
        return self.path / "heartbeat.json"

    @property
    def stopped(self) -> Path:
        """Why the last process ended before the phase was complete, having saved; a job script then starts it again."""
        return self.path / "stopped.json"

    @property
    def failed(self) -> Path:
        """Why the last process ended for good: another start would end the same way."""
        return self.path / "failed.json"

    def write(self, path: Path, values: dict[str, Any]) -> None:
        """Write a small file beside the checkpoints; a disk without room for it is no reason to end a run."""
        try:
            write_json(path, values)
        except OSError as error:
            warn(f"{path}: not written ({error})")

    def read(self, path: Path) -> dict[str, Any]:
        """Return the content of a small JSON file beside the checkpoints; empty if it is missing.

        One that is damaged is kept under another name with a warning: it is no reason to end a run.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(values, dict):
                raise ValueError("no JSON object")
        except FileNotFoundError:
            return {}
        except ValueError as error:
            warn(f"{path}: damaged ({error}); kept as {keep_old(path).name}, and begun anew")
            return {}
        return values

    @property
    def interrupted(self) -> Path:
        """Why the last process ended without saving: a rank failed or hung. Another start resumes."""
        return self.path / "interrupted.json"

    @property
    def recipe(self) -> Path:
        return self.path / "recipe.yaml"


def keep_old(path: Path) -> Path:
    """Rename a file that is begun anew to the first free of ``NAME.1``, ``NAME.2``, ...; returns its new name."""
    old = next(each for n in itertools.count(1) if not (each := path.with_name(f"{path.name}.{n}")).exists())
    path.rename(old)
    return old


def warn(text: str) -> None:
    """Print a warning on stderr."""
    print(f"warning: {text}", file=sys.stderr, flush=True)
