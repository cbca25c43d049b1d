"""Checks of the nodes of a job: whether one can train a recipe, and whether all are alike."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.store.reader import Store
from megatron_mmbert.resilience.consistency import fingerprint_facts as rank_facts
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import read_json

PACKAGES = ("transformer-engine", "flash-attn", "numpy", "sentencepiece", "tokenizers", "safetensors")


def node_facts(recipe: Recipe) -> dict[str, str]:
    """Return what must be the same on all nodes, by name: what ranks agree on before they train, and the packages."""
    found = {
        f"{kind} {name}": value for kind, values in rank_facts(recipe, "").items() for name, value in values.items()
    }
    for package in PACKAGES:
        try:
            found[f"package {package}"] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[f"package {package}"] = "absent"
    return found


def problems(recipe: Recipe, output: Path, gpus: int, min_free_gb: float) -> Iterator[str]:
    """Yield one sentence for each thing that would stop training here."""
    output.mkdir(parents=True, exist_ok=True)
    if not os.access(output, os.W_OK):
        yield f"{output}: cannot write here; change --output or the folder's rights"
    free = shutil.disk_usage(output).free / 1e9
    if free < min_free_gb:
        yield f"{output}: {free:.1f} GB free and {min_free_gb:g} wanted; make room, or lower MMBERT_MIN_FREE_GB"
    if gpus:
        import torch

        found = torch.cuda.device_count()
        if found < gpus:
            yield f"{found} GPUs are seen and {gpus} processes would run here; see nvidia-smi, or lower the processes"
    for path in recipe.data.stores:
        try:
            Store.open(path).check_small_files()
        except UserError as error:
            yield str(error)


def compare(folder: Path, nodes: int = 1) -> Iterator[str]:
    """Yield one sentence for each fact that differs between the records in ``folder``; one if ``nodes`` are not there.

    Raises:
        UserError: there are none.
    """
    records = {path.stem: read_json(path, "record", "run preflight again") for path in sorted(folder.glob("*.json"))}
    if not records:
        raise UserError(f"{folder}: no records of nodes; run preflight with --record {folder} on each node first")
    if len(records) < nodes:
        yield (
            f"{folder}: records of {', '.join(records)} alone, and {nodes} nodes wrote theirs: they do not share this "
            f"folder; choose an --output on a file system that all nodes see"
        )
    for name in sorted({name for record in records.values() for name in record}):
        having: dict[str, list[str]] = {}
        for node, record in records.items():
            having.setdefault(str(record.get(name, "absent")), []).append(node)
        if len(having) > 1:
            differ = "; ".join(f"{value} on {', '.join(where)}" for value, where in having.items())
            yield f"{name} is not the same on all nodes: {differ}"
