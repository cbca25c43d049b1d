"""A run read from its folder: each phase's steps, mixture and held-out scores, and how the phases hang together.

Everything is optional. A run that stands in its second phase, or whose merge was never made, is read as far as it got.
"""

from __future__ import annotations

import json
import math
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from megatron_mmbert.builders.run_folder import PhaseFolder
from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

Float64s = npt.NDArray[np.float64]
Scores = dict[str, float]
MERGED_SCORES = "merged_bits_per_byte.json"
"""Scores of the merged model: beside its folder, as a committed checkpoint is not written to."""
_CURVES = ("phase_tokens", "goal_tokens", "total_tokens", "loss", "lr", "mask_ratio", "temperature")
_RUN_AGAIN = "run the phase again, or move the file away to report without it"


@dataclass(frozen=True)
class PhaseRun:
    """A phase of a run.

    Attributes:
        origin: the phase it started from, None for scratch or when unknown.
        stage: how many phases lie before it on its way from scratch; decay variants share a stage.
        curves: by name of the metric, float64 [steps].
        shares: token share of each language, sources summed, largest first.
        sizes: tokens of text there are of each language.
        before, after: held-out bits per byte by language.
    """

    name: str
    origin: str | None
    stage: int
    curves: dict[str, Float64s]
    shares: Scores
    sizes: Scores
    before: Scores
    after: Scores

    @property
    def steps(self) -> int:
        return len(self.curves["loss"])

    @property
    def start_tokens(self) -> float:
        """Tokens of the run before this phase."""
        return float(self.curves["total_tokens"][0] - self.curves["phase_tokens"][0]) if self.steps else 0.0

    @property
    def goal_tokens(self) -> float:
        return float(self.curves["goal_tokens"][-1]) if self.steps else 0.0


@dataclass(frozen=True)
class Run:
    """The parts of a run that exist; ``phases`` in the recipe's order, so that origins come first."""

    name: str
    phases: tuple[PhaseRun, ...]
    merged: Scores = field(default_factory=dict)

    def phase(self, name: str | None) -> PhaseRun | None:
        """Return the phase called ``name``, None where the run has none."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def stages(self) -> list[list[PhaseRun]]:
        """Return phases by stage: those of one inner list are alternatives of one another."""
        numbers = sorted({phase.stage for phase in self.phases})
        return [[phase for phase in self.phases if phase.stage == number] for number in numbers]


def read_run(output: Path, recipe_file: Path | None = None) -> Run:
    """Read the run in folder ``output``.

    Args:
        recipe_file: says the phases' order and origins; by default the newest recipe that the run saved.

    Raises:
        UserError: no run there, or a damaged file.
    """
    folders = [PhaseFolder(output, path.name) for path in sorted(output.glob("*")) if _is_phase(path)]
    if not folders:
        raise UserError(
            f"{output}: no phase of a run here; name a run's output folder, which holds PHASE/metrics.jsonl"
        )
    recipe = _recipe(folders, recipe_file)
    curves = {folder.phase: read_curves(folder.metrics) for folder in folders}
    origins = {name: _origin(name, curves, recipe) for name in curves}
    stages = {name: _stage(name, origins, recipe) for name in curves}
    order = [phase.name for phase in recipe.phases] if recipe else []
    place = {name: (order.index(name) if name in order else len(order), stages[name], name) for name in curves}
    phases = [
        _phase_run(folder, origins[folder.phase], stages[folder.phase], curves[folder.phase])
        for folder in sorted(folders, key=lambda folder: place[folder.phase])
    ]
    return Run(output.resolve().name, tuple(phases), read_scores(output / MERGED_SCORES).get("after", {}))


def read_curves(path: Path) -> dict[str, Float64s]:
    """Return the curves of a metrics file; a last line cut off by a kill, or still being written, is left out."""
    rows: list[list[float]] = []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            values = json.loads(line)
            rows.append([math.nan if values[name] is None else float(values[name]) for name in _CURVES])
        except (ValueError, KeyError, TypeError):
            if number == len(lines) and not line.endswith("\n"):
                break
            raise UserError(f"{path}:{number}: no line of a metrics file: {line[:40]!r}; {_RUN_AGAIN}") from None
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(_CURVES))
    return dict(zip(_CURVES, table.T, strict=True))


def read_scores(path: Path) -> dict[str, Scores]:
    """Return ``{"before": {language: bits per byte}, "after": ...}``; empty when there is no such file.

    Raises:
        UserError: the file is damaged or of another form.
    """
    values = read_json(path, "scores", _RUN_AGAIN) if path.exists() else {}
    found: dict[str, Scores] = {}
    for moment in ("before", "after"):
        scores = values.get(moment, {}) if isinstance(values, dict) else None
        if not isinstance(scores, dict) or not all(type(value) in (int, float) for value in scores.values()):
            raise UserError(f"{path}: {moment!r} is no table of language and bits per byte; {_RUN_AGAIN}")
        found[moment] = {language: float(value) for language, value in scores.items()}
    return found


def _is_phase(path: Path) -> bool:
    folder = PhaseFolder(path.parent, path.name)
    return any(file.exists() for file in (folder.metrics, folder.scores, folder.path / "mixture.json"))


def _recipe(folders: list[PhaseFolder], recipe_file: Path | None) -> Recipe | None:
    if recipe_file is not None:
        return load_recipe(recipe_file)
    saved = [folder.recipe for folder in folders if folder.recipe.exists()]
    return load_recipe(max(saved, key=lambda path: path.stat().st_mtime)) if saved else None


def _origin(name: str, curves: dict[str, dict[str, Float64s]], recipe: Recipe | None) -> str | None:
    """Return the recipe's origin; without a recipe, the phase that ended at the count of tokens where this began."""
    if recipe is not None and name in [phase.name for phase in recipe.phases]:
        return recipe.origin(recipe.phase(name))
    own = curves[name]
    if not len(own["loss"]):
        return None
    start = own["total_tokens"][0] - own["phase_tokens"][0]
    ended = [other for other, found in curves.items() if len(found["loss"]) and found["total_tokens"][-1] == start]
    return ended[0] if ended and start > 0 else None


def _stage(name: str, origins: dict[str, str | None], recipe: Recipe | None) -> int:
    """Return the number of ancestors, also of those whose folder is missing."""
    known = {phase.name: recipe.origin(phase) for phase in recipe.phases} if recipe else {}
    origin, stage = origins.get(name, known.get(name)), 0
    while origin is not None:
        stage, origin = stage + 1, origins.get(origin, known.get(origin))
    return stage


def _phase_run(folder: PhaseFolder, origin: str | None, stage: int, curves: dict[str, Float64s]) -> PhaseRun:
    path = folder.path / "mixture.json"
    mixture = read_json(path, "mixture", _RUN_AGAIN) if path.exists() else []
    shares: Scores = defaultdict(float)
    sizes: Scores = defaultdict(float)
    try:
        for group in mixture:
            shares[group["language"]] += float(group["share"])
            sizes[group["language"]] += _tokens_of_text(group)
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path}: no list of languages with their shares; {_RUN_AGAIN}") from None
    scores = read_scores(folder.scores)
    largest_first = dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))
    return PhaseRun(folder.phase, origin, stage, curves, largest_first, dict(sizes), scores["before"], scores["after"])


def _tokens_of_text(group: dict[str, Any]) -> float:
    return float(group["tokens"]) / float(group["epochs"]) if group["epochs"] else 0.0
