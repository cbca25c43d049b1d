"""Trains, saves in one layout and goes on in another, each in ranks forked from this process.

    python tests/support/save_in_load_in.py RECIPE FOLDER HALF small|all

Writes FOLDER/runs.json: the losses of every run and digests of every pack it saw, data and masks; and leaves the run
folders, whose last checkpoints hold the weights at the end. The first run is one process, uninterrupted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch.multiprocessing

from megatron_mmbert import parallel
from megatron_mmbert.config import load_recipe
from megatron_mmbert.data.loading.batch import PackedBatch
from megatron_mmbert.train.callbacks import MetricsFile
from megatron_mmbert.train.loop import train
from megatron_mmbert.train.trainer import build_trainer
from megatron_mmbert.utils import fault_points
from megatron_mmbert.utils.fault_points import Moment
from support.layouts import Layout

ONE = Layout()
LAYOUTS = [
    ONE,
    Layout(tp=2, sp=True),
    Layout(pp=2, vp=2),
    Layout(dp=2, zero=True),
    Layout(tp=2, pp=2, sp=True, dp=1, zero=True),
]
SMALL = [LAYOUTS[3], LAYOUTS[4]]


def label(save: Layout, load: Layout) -> str:
    return f"{save.name} to {load.name}".replace(" ", "_")


class PackDigests:
    """Writes down the packs of each step."""

    def __init__(self) -> None:
        self.seen: dict[str, str] = {}
        fault_points.install(Moment.LOADED, self._note)

    def _note(self, packs: list[PackedBatch]) -> None:
        for pack in packs:
            digest = hashlib.sha256()
            for tensor in (pack.tokens_T, pack.cu_seqlens, pack.masked_index_K, pack.label_K):
                digest.update(tensor.contiguous().numpy().tobytes())
            self.seen[str(pack.pack_indices[0])] = digest.hexdigest()


def rank(number: int, layout: Layout, recipe_path: Path, output: Path, stop_at: int, port: int) -> None:
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": layout.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    recipe = load_recipe(recipe_path, layout.overrides())
    parallel.enable_cpu_mode()
    runtime = parallel.start(layout.tp, layout.pp, recipe.seed, timeout_minutes=2, virtual_stages=layout.vp)
    trainer = build_trainer(recipe, recipe.phases[0], output)
    packs = PackDigests()
    callbacks: list[Any] = [MetricsFile(trainer.folder.metrics, trainer.counters.step)] if runtime.is_main else []
    train(trainer, callbacks, lambda: trainer.counters.step == stop_at)
    for callback in callbacks:
        callback.close()
    trainer.close()
    (output / f"packs-{number}.json").write_text(json.dumps(packs.seen))
    parallel.shutdown()


def run(layout: Layout, recipe_path: Path, output: Path, stop_at: int = -1) -> dict[str, Any]:
    """Train in ``output``, from its checkpoint if there is one; losses by step and packs of the ranks together."""
    output.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    arguments = (layout, recipe_path, output, stop_at, port)
    torch.multiprocessing.start_processes(rank, arguments, layout.ranks, start_method="fork")
    packs: dict[str, str] = {}
    for number in range(layout.ranks):
        for name, digest in json.loads((output / f"packs-{number}.json").read_text()).items():
            assert packs.setdefault(name, digest) == digest, "ranks that share a pack see the same"
    lines = (output / "first/metrics.jsonl").read_text().splitlines()
    return {"losses": {line["step"]: line["loss"] for line in map(json.loads, lines)}, "packs": packs}


def runs(recipe_path: Path, folder: Path, half: int, layouts: list[Layout]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield "uninterrupted", run(ONE, recipe_path, folder / "uninterrupted")
    for save in layouts:
        saved = folder / f"saved in {save.name}"
        before = run(save, recipe_path, saved, half)
        for load in layouts:
            output = folder / label(save, load)
            shutil.copytree(saved, output)
            after = run(load, recipe_path, output)
            yield label(save, load), {"losses": after["losses"], "packs": before["packs"] | after["packs"]}
            print(label(save, load), flush=True)
        shutil.rmtree(saved)


def main() -> None:
    recipe_path, folder, half, which = sys.argv[1:]
    chosen = {"all": LAYOUTS, "small": SMALL}[which]
    found = dict(runs(Path(recipe_path), Path(folder), int(half), chosen))
    (Path(folder) / "runs.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
