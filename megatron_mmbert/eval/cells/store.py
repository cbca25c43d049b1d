"""The folder of results: whose it is, and a file for each cell, written whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from megatron_mmbert.eval.cells.plan import FORMAT, Cell
from megatron_mmbert.eval.probes.base import Outcome
from megatron_mmbert.utils.files import make_folders, to_json, write_json
from megatron_mmbert.utils.output_kinds import EVALUATION, EVALUATION_CELL
from megatron_mmbert.utils.outputs import check_output, output_file

MARKER, CELLS, VECTORS = "evaluation.json", "cells", "vectors"


class Store:
    """Results below ``folder``; several processes may share it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def open(self, inputs: Sequence[Path]) -> None:
        """Make the folder, or resume what is there.

        Raises:
            UserError: something else is there.
        """
        check_output(self.folder, EVALUATION, inputs, overwrite=True)
        make_folders(self.folder / CELLS)
        make_folders(self.folder / VECTORS)
        if not (self.folder / MARKER).is_file():
            write_json(self.folder / MARKER, {"format": FORMAT})

    def read(self, cell: Cell) -> dict[str, Any] | None:
        """Return the result of a cell; None where there is none, or that of another model, task, data or setting."""
        try:
            values = json.loads((self.folder / CELLS / cell.path).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError, ValueError):  # not there yet, or damaged: it is computed again
            return None
        same = isinstance(values, dict) and values.get("identity") == cell.identity
        return values if same and {"score", "numerators", "denominators"} <= values.keys() else None

    def write(self, cell: Cell, outcome: Outcome) -> None:
        """Write the result of a cell, in the place of a stale one."""
        values = {
            "identity": cell.identity,
            "subject": cell.subject,
            "task": cell.task,
            "setting": cell.setting,
            "language": cell.language,
            "seed": cell.seed,
            "score": outcome.score,
            "chance": outcome.chance,
            "about": outcome.about,
            "numerators": _numbers(outcome.numerators),
            "denominators": _numbers(outcome.denominators),
            "majority": None if outcome.majority is None else _numbers(outcome.majority),
        }
        with output_file(self.folder / CELLS / cell.path, EVALUATION_CELL, overwrite=True) as staging:
            staging.write_text(to_json(values, ensure_ascii=False) + "\n", encoding="utf-8")


def _numbers(values: np.ndarray) -> list[float]:
    """Return numbers as short as they are: whole ones without a point."""
    return [int(value) if float(value).is_integer() else float(value) for value in values.tolist()]
