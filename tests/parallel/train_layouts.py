"""Train one phase in several parallel layouts, one after the other: imports once, then forks the ranks of each.

    python tests/parallel/train_layouts.py RECIPE OUTPUT TPxPPxDP...

Each layout trains in OUTPUT/TPxPPxDP, from the same initial weights, which are a function of the seed alone.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import torch.multiprocessing

from megatron_mmbert import parallel
from megatron_mmbert.config import load_recipe
from megatron_mmbert.train.hooks import MetricsFile
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.session import Session


def rank(number: int, recipe_path: str, output: str, layout: str, port: int, overrides: list[str]) -> None:
    """One rank of a layout."""
    tensor, pipeline, data = map(int, layout.split("+")[0].split("x"))
    overrides = [*overrides, *(f"parallel.{name}=true" for name in layout.split("+")[1:])]
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": tensor * pipeline * data, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    recipe = load_recipe(Path(recipe_path), [f"parallel.tensor={tensor}", f"parallel.pipeline={pipeline}", *overrides])
    runtime = parallel.start(tensor, pipeline, recipe.seed, timeout_minutes=1)
    session = Session(recipe, recipe.phases[0], Path(output) / layout, runtime)
    train(session, [MetricsFile(session.folder.metrics, session.step)] if runtime.is_main else [])
    parallel.shutdown()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def main() -> None:
    recipe, output, *rest = sys.argv[1:]
    overrides = [argument for argument in rest if "=" in argument]
    for layout in (argument for argument in rest if "=" not in argument):
        tensor, pipeline, data = map(int, layout.split("+")[0].split("x"))
        arguments = (recipe, output, layout, free_port(), overrides)
        ranks = tensor * pipeline * data
        torch.multiprocessing.start_processes(rank, arguments, ranks, start_method="fork")


if __name__ == "__main__":
    main()
