"""Whether this node can train a recipe, found out in seconds and before the GPUs wait for each other.

    python -m megatron_mmbert.preflight RECIPE.yaml --output runs/mine --gpus 8 --record DIR     on every node
    python -m megatron_mmbert.preflight --compare DIR --nodes 2                                  then once

The first checks the output folder, its free space, the GPUs, the packages and the stores, and records what must be the
same everywhere; the second names the nodes that differ, and sees whether all records have come together: where some are
missing, the nodes do not share the output folder. Both end with status 2 and one sentence for each fault.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from megatron_mmbert.config.loading import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.store.manifest import load_manifest
from megatron_mmbert.resilience.consistency import fingerprint_facts as rank_facts
from megatron_mmbert.utils.errors import EXIT_BAD_INPUT, UserError, run_command
from megatron_mmbert.utils.files import read_json, write_json

PACKAGES = ("transformer-engine", "flash-attn", "numpy", "sentencepiece", "tokenizers", "safetensors")


def node_facts(recipe: Recipe) -> dict[str, str]:
    """What must be the same on all nodes, by name: what ranks agree on before they train, and the packages."""
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
    """One sentence for each thing that would stop training here."""
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
        for shard in load_manifest(path).shards:
            file = path / f"{shard.name}.bin"
            if not file.is_file() or file.stat().st_size != shard.bin_bytes:
                yield f"{file}: missing or of another size than the manifest says; see tools/verify_data.py {path}"


def check_node(arguments: argparse.Namespace) -> int:
    """Check this node and record its facts; returns the exit status."""
    recipe, host = load_recipe(arguments.recipe, arguments.overrides), socket.gethostname()
    found = list(problems(recipe, arguments.output, arguments.gpus, arguments.min_free_gb))
    for problem in found:
        print(f"error: {host}: {problem}", file=sys.stderr)
    if arguments.record is not None and not found:
        arguments.record.mkdir(parents=True, exist_ok=True)
        write_json(arguments.record / f"{host}.json", node_facts(recipe))
    if not found:
        print(f"{host}: can train {recipe.name}")
    return EXIT_BAD_INPUT if found else 0


def compare(folder: Path, nodes: int = 1) -> Iterator[str]:
    """One sentence for each fact that is not the same in all the records in ``folder``, and when there are fewer than
    ``nodes`` of them.

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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, nargs="?", metavar="RECIPE.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key.path=value", help="recipe values to replace")
    parser.add_argument("--output", type=Path, default=Path("runs"), help="the run's folder (default: %(default)s)")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs that must be seen here (default: none)")
    parser.add_argument("--min-free-gb", type=float, default=1.0, help="free space wanted there (default: %(default)s)")
    parser.add_argument("--record", type=Path, metavar="DIR", help="write this node's facts there")
    parser.add_argument("--compare", type=Path, metavar="DIR", help="compare the records of all nodes")
    parser.add_argument("--nodes", type=int, default=1, help="how many records to --compare there must be")
    arguments = parser.parse_intermixed_args()
    if arguments.compare is not None:
        found = list(compare(arguments.compare, arguments.nodes))
        for problem in found:
            print(f"error: {problem}", file=sys.stderr)
        return EXIT_BAD_INPUT if found else 0
    if arguments.recipe is None:
        parser.error("give a recipe, or --compare DIR")
    return check_node(arguments)


if __name__ == "__main__":
    run_command(main)
