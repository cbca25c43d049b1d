"""The graph of Slurm jobs of a whole run, from the phases' ``from:`` and the merge of the recipe.

    python -m megatron_mmbert.plan.job_graph [--corpus] RECIPE.yaml [key.path=value ...]

Prints a line for each job, after those it waits for: KEY, NAME, SCRIPT, KIND, AFTER, ARRAY, PHASE, apart by tabs, with
``-`` for what a job does not have. ``slurm/pipeline.sh`` reads the lines and submits the jobs. All fields are made of
letters, digits and ``._-:,``, as the recipe's schema checks the names of phases, so that no text of a recipe can become
a command.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.utils.errors import run_command

Kind = Literal["train", "cpu", "gpu"]
_SCRIPTS = {"pretrain": "pretrain.sh", "midtrain": "midtrain.sh"}
_ANY_PHASE = "pretrain.sh"
_SAFE = re.compile(r"[A-Za-z0-9._:,-]+")
_NOTHING = "-"


@dataclass(frozen=True)
class Job:
    """A job, or an array of jobs.

    Attributes:
        key: unlike that of any other job.
        name: the name of the job in Slurm.
        script: a file in ``slurm/``.
        kind: ``train`` takes the site's nodes, ``gpu`` one node, ``cpu`` a node without GPUs.
        after: keys of the jobs that must have succeeded.
        array: the number of elements of an array; None for a single job.
        phase: the phase to train; None where the script itself knows what to do.
    """

    key: str
    name: str
    script: str
    kind: Kind
    after: tuple[str, ...] = ()
    array: int | None = None
    phase: str | None = None

    def line(self) -> str:
        """Return the job as a line for the script."""
        array = _NOTHING if self.array is None else f"0-{self.array - 1}"
        after = ",".join(self.after) or _NOTHING
        fields = (self.key, self.name, self.script, self.kind, after, array, self.phase or _NOTHING)
        if not all(_SAFE.fullmatch(field) for field in fields):
            raise ValueError(f"not a line for a script: {fields}")
        return "\t".join(fields)


def job_graph(recipe: Recipe, first: str | None = None) -> list[Job]:
    """Return the jobs of a run, each after those it waits for.

    Args:
        first: the key of a job that phases from scratch wait for, such as the one that makes the store.
    """
    variants = _array_of_variants(recipe)
    key_of = {phase.name: "variants" if phase.name in variants else f"phase:{phase.name}" for phase in recipe.phases}
    jobs: dict[str, Job] = {}
    for phase in recipe.phases:
        origin = recipe.origin(phase)
        after = (key_of[origin],) if origin else (first,) if first else ()
        key = key_of[phase.name]
        if phase.name in variants:
            jobs.setdefault(key, Job(key, "decay", "decay.sh", "train", after, len(variants)))
        else:
            script = _SCRIPTS.get(phase.name, _ANY_PHASE)
            jobs[key] = Job(key, phase.name, script, "train", after, phase=phase.name)
    if recipe.merge is not None:
        wanted = dict.fromkeys(key_of[name] for name in _last_of(recipe, recipe.merge.phases))
        jobs["merge"] = Job("merge", "merge", "merge_and_convert.sh", "cpu", tuple(wanted))
        jobs["evaluate"] = Job("evaluate", "evaluate", "evaluate.sh", "gpu", ("merge",))
    return list(jobs.values())


def _array_of_variants(recipe: Recipe) -> list[str]:
    """Return the phases that ``decay.sh`` trains as one array: the merged ones, where they start from the same and lead
    to no other phase; nothing where they do not."""
    models = recipe.merge.models if recipe.merge else []
    origins = {recipe.origin(recipe.phase(name)) for name in models}
    lead_on = {recipe.origin(phase) for phase in recipe.phases}
    alike = len(origins) == 1 and len(set(models)) == len(models) > 1
    return models if alike and not lead_on & set(models) else []


def _last_of(recipe: Recipe, names: list[str]) -> list[str]:
    """Return ``names`` without those that another of them starts from, by whatever chain of phases."""
    earlier = {name for each in names for name in _ancestors(recipe, each)}
    return [name for name in names if name not in earlier]


def _ancestors(recipe: Recipe, name: str) -> Iterator[str]:
    origin = recipe.origin(recipe.phase(name))
    while origin is not None:
        yield origin
        origin = recipe.origin(recipe.phase(origin))


def main() -> None:
    """Print the graph of a recipe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="the recipe")
    parser.add_argument("--corpus", action="store_true", help="phases from scratch wait for a job of the key 'store'")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, arguments.overrides)
    for job in job_graph(recipe, "store" if arguments.corpus else None):
        print(job.line())


if __name__ == "__main__":
    run_command(main)
