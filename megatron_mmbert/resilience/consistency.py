"""Consistency check before anything is built: all ranks compare recipe, code and data.

A rank that differs would not fail, or fail late and strangely: another learning rate trains nonsense, another layout
waits for ever. Digests are compared first; only where they differ are the values themselves exchanged, to say which.
"""

from __future__ import annotations

import hashlib
import platform
import socket
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from megatron_mmbert import __version__
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.store.manifest import MANIFEST_NAME
from megatron_mmbert.utils.errors import UserError
from megatron_mmbert.utils.files import to_json

PACKAGE = Path(__file__).resolve().parents[1]
_REMEDIES = {
    "recipe": "give all hosts the same recipe and the same key.path=value arguments",
    "code": "install the same version on all hosts",
    "data": "copy the same stores and tokenizer to all hosts, or put them on a file system that all see",
}
_ABSENT = "nothing"


def fingerprint_facts(recipe: Recipe, phase: str, stores: list[Path] | None = None) -> dict[str, dict[str, str]]:
    """Return the facts that must be the same on all ranks, by kind (``recipe``, ``code``, ``data``) and name."""
    paths = [*recipe.data.stores, *recipe.evaluation.stores] if stores is None else stores
    data = {str(path): _digest_of(path / MANIFEST_NAME) for path in paths}
    if recipe.tokenizer.path:
        data[str(recipe.tokenizer.path)] = _digest_of(Path(recipe.tokenizer.path))
    return {
        "recipe": {"phase": phase, **dict(_flat(recipe.to_dict()))},
        "code": {
            "python": ".".join(platform.python_version_tuple()[:2]),
            "torch": torch.__version__,
            "megatron-core": _version("megatron-core"),
            "megatron_mmbert": f"{__version__} ({code_digest()[:12]})",
        },
        "data": data,
    }


def code_digest(package: Path = PACKAGE) -> str:
    """Return the sha256 of this package's sources, by name and content: also tells checkouts of one version apart."""
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()


def check_consistency(mine: Mapping[str, Mapping[str, str]]) -> None:
    """Compare with all ranks of the process group; to be called by all of them.

    Raises:
        UserError: on every rank, the same sentence: what differs, between which ranks and hosts, and what to do.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    digest = hashlib.sha256(to_json(mine, sort_keys=True).encode()).hexdigest()
    digests: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(digests, digest)
    if len(set(digests)) == 1:
        return
    everything: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everything, (socket.gethostname(), mine))
    raise UserError(disagreement(everything))


def disagreement(everything: list[tuple[str, Mapping[str, Mapping[str, str]]]]) -> str:
    """Return the sentence about the first fact in which ranks differ from rank 0, given (host, facts) of each rank."""
    host, reference = everything[0]
    for kind in ("code", "recipe", "data"):
        names = {name for _, found in everything for name in found[kind]}
        for name in sorted(names):
            theirs: dict[str, list[int]] = {}
            expected = reference[kind].get(name, _ABSENT)
            for rank, (_, found) in enumerate(everything):
                if (value := found[kind].get(name, _ABSENT)) != expected:
                    theirs.setdefault(value, []).append(rank)
            if theirs:
                value, ranks = next(iter(theirs.items()))
                who = _listed([(rank, everything[rank][0]) for rank in ranks])
                return (
                    f"ranks disagree on {kind}: {name} is {value} for {who} and {expected} for rank 0 on {host}; "
                    f"{_REMEDIES[kind]}"
                )
    raise AssertionError("all ranks agree")


def _listed(ranks: list[tuple[int, str]]) -> str:
    listed = ", ".join(f"rank {rank} on {host}" for rank, host in ranks[:4])
    return f"{listed} and {len(ranks) - 4} more" if len(ranks) > 4 else listed


def _flat(value: Any, path: str = "") -> list[tuple[str, str]]:
    """Return the leaves of nested sections as (``phases.0.lr``, text)."""
    if isinstance(value, Mapping):
        children = [(str(key), each) for key, each in value.items()]
    elif isinstance(value, list | tuple):
        children = [(str(number), each) for number, each in enumerate(value)]
    else:
        return [(path, to_json(value, default=str))]
    return [leaf for name, each in children for leaf in _flat(each, f"{path}.{name}" if path else name)]


def _digest_of(path: Path) -> str:
    """Return a digest of a file, or of all files in a folder; ``missing`` where there is none."""
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    try:
        for file in files:
            digest.update(file.name.encode() + b"\0" + file.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return "missing"
    return digest.hexdigest()[:12]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return _ABSENT
