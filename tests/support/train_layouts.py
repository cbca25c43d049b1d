"""Trains the first phase of a recipe in one parallel layout after another, in ranks forked from this process.

Megatron-Core takes seconds to import: it is imported once, and each layout's ranks are forked. No process group, thread
or store may be opened before the fork. All layouts start from the same weights, which are a function of the seed alone.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
from torch import Tensor

from megatron_mmbert import parallel
from megatron_mmbert.builders.data import data_phase, stores_of, token_ids, tokenizer_of
from megatron_mmbert.builders.schedules import lr_schedule, phase_schedules
from megatron_mmbert.checkpoint import training_state as checkpoints
from megatron_mmbert.config import load_recipe
from megatron_mmbert.config.recipe import Recipe
from megatron_mmbert.data.loading.loader import PackLoader
from megatron_mmbert.model.init import logical_parameters
from megatron_mmbert.model.parameter_names import WORD_EMBEDDING
from megatron_mmbert.optim.schedule import lr_at
from megatron_mmbert.optim.stable_adamw import local_rms_reducer
from megatron_mmbert.train.resume import fresh_meta
from megatron_mmbert.train.step import Training, build_training, training_step
from support.joined_shards import join_shards
from support.layouts import Layout, Result


def train(layout: Layout, recipe_path: Path, steps: int, scratch: Path, overrides: tuple[str, ...] = ()) -> Result:
    """The run of one layout."""
    scratch.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    arguments = (layout, recipe_path, steps, scratch, overrides, _free_port())
    torch.multiprocessing.start_processes(_rank, arguments, layout.ranks, start_method="fork")
    parts = [pickle.loads((scratch / f"rank{number}").read_bytes()) for number in range(layout.ranks)]
    found = _together(parts, layout)
    return replace(found, seconds=time.perf_counter() - started)


def _rank(
    number: int, layout: Layout, recipe_path: Path, steps: int, scratch: Path, overrides: tuple[str, ...], port: int
) -> None:
    place = {"RANK": number, "LOCAL_RANK": number, "WORLD_SIZE": layout.ranks, "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()} | {"MASTER_ADDR": "127.0.0.1"})
    recipe = load_recipe(recipe_path, [*layout.overrides(), *overrides])
    parallel.enable_cpu_mode()
    parallel.start(layout.tp, layout.pp, recipe.seed, timeout_minutes=2, virtual_stages=layout.vp)
    REDUCTIONS.get(layout.left_out, lambda: None)()
    recorded: dict[str, list[float]] = {"losses": [], "grad_norms": [], "rms": []}
    training, loader = build_training(recipe, recipe.phases[0]), _loader(recipe, layout.packs)
    if layout.left_out == "global-rms":
        training.optimizer.stable_adamw.rms_reducer = local_rms_reducer
    if layout.resume_at:
        _steps(training, recipe, loader, layout, layout.resume_at, recorded)
        training, loader = _saved_and_loaded(training, loader, recipe, layout.packs, scratch / "step-00000001")
    _steps(training, recipe, loader, layout, steps - layout.resume_at, recorded)
    training.gather_parameters()
    (scratch / f"rank{number}").write_bytes(pickle.dumps(recorded | _held(training)))
    parallel.shutdown()


def _loader(recipe: Recipe, max_packs: int) -> PackLoader:
    here, tokenizer, phase = parallel.current(), tokenizer_of(recipe), recipe.phases[0]
    stores = stores_of(recipe.data.stores, tokenizer)
    schedules = phase_schedules(recipe, phase, here.dp_size, max_packs)
    settings = data_phase(recipe, phase, stores, lambda *_: None)
    place = (here.dp_rank, here.dp_size)
    return PackLoader(stores, settings, token_ids(tokenizer), *place, step_packs=schedules.step_packs)


def _steps(
    training: Training, recipe: Recipe, loader: PackLoader, layout: Layout, steps: int, recorded: dict[str, list[float]]
) -> None:
    phase = recipe.phases[0]
    schedule = lr_schedule(phase)
    # Dropout's masks follow from the seed: another one gives each tensor-parallel rank masks of its own.
    seed = recipe.seed + (parallel.current().tp_rank if layout.left_out == "common-dropout" else 0)
    for _ in range(steps):
        lr = lr_at(loader.state.tokens, schedule)
        decay = recipe.optimizer.weight_decay
        recorded["losses"].append(training_step(training, loader.next_step(), lr, phase, decay, seed))
        recorded["grad_norms"].append(_grad_norm(training))
        rms_P = training.optimizer.stable_adamw.last_rms_P
        recorded["rms"].append(rms_P.max().item() if len(rms_P) else 0.0)


def _grad_norm(training: Training) -> float:
    """Of the whole model, in fp64 (Megatron-Core's own adds up in fp32, and differs by more than the gradients do)."""
    shards = [shard for shard in training.optimizer.shards if shard.counts]
    total = torch.stack(
        [torch.zeros((), dtype=torch.float64), *(s.tensor.grad.double().square().sum() for s in shards)]
    )
    square = total.sum()
    torch.distributed.all_reduce(square)
    return float(square.sqrt())


def _saved_and_loaded(
    training: Training, loader: PackLoader, recipe: Recipe, max_packs: int, path: Path
) -> tuple[Training, PackLoader]:
    """New objects, of other initial weights, with the state of the old ones by way of a checkpoint."""
    training.gather_parameters()
    meta = fresh_meta(recipe, recipe.phases[0])
    state = loader.state_dict()
    counters = {"loader": state, "phase_tokens": state["tokens"], "total_tokens": state["tokens"]}
    checkpoints.save(path, meta.model_copy(update=counters), training.encoders, training.optimizer)
    other = recipe.model_copy(update={"seed": recipe.seed + 1})
    training, loader = build_training(other, recipe.phases[0]), _loader(recipe, max_packs)
    checkpoints.load(path, training.encoders, training.optimizer)
    loader.load_state_dict(checkpoints.read_meta(path).loader)
    return training, loader


def _held(training: Training) -> dict[str, Any]:
    """What this rank has at the end."""
    here = parallel.current()
    named = [pair for encoder in training.encoders for pair in logical_parameters(encoder)]
    parameters = []
    for name, value in named:
        split = here.tp_size > 1 and getattr(value, "tensor_model_parallel", False)
        cut = (value.partition_dim, getattr(value, "partition_stride", 1)) if split else (-1, 1)  # type: ignore[attr-defined]
        parameters.append((name, value.detach().float(), cut, getattr(value, "shared", False)))
    digest = hashlib.sha256()
    inner = training.optimizer.stable_adamw
    for shard in training.optimizer.shards:
        for tensor in (shard.tensor, inner.state[shard.tensor]["exp_avg"], inner.state[shard.tensor]["exp_avg_sq"]):
            digest.update(tensor.detach().contiguous().view(torch.uint8).numpy().tobytes())
    for _, tensor, _, _ in parameters:
        digest.update(tensor.contiguous().numpy().tobytes())
    place = (here.tp_rank, here.pp_rank, here.dp_rank)
    return {"place": place, "parameters": parameters, "digest": digest.hexdigest()}


def _together(parts: list[dict[str, Any]], layout: Layout) -> Result:
    shards: dict[str, dict[int, Tensor]] = {}
    cuts: dict[str, tuple[int, int]] = {}
    agree = True
    for part in sorted(parts, key=lambda part: part["place"]):
        for name, value, cut, _ in part["parameters"]:
            first = shards.setdefault(name, {}).setdefault(part["place"][0], value)
            agree = agree and torch.equal(first, value)
            cuts[name] = cut
    whole = {name: join_shards([held[rank] for rank in sorted(held)], *cuts[name]) for name, held in shards.items()}
    if layout.pp > 1:
        copies = [name for part in parts for name, _, _, shared in part["parameters"] if shared]
        assert copies == [WORD_EMBEDDING] * (layout.tp * layout.dp), "the last stage holds a copy of the table"
    first = parts[0]
    rms = [max(values) for values in zip(*(part["rms"] for part in parts), strict=True)]
    return Result(first["losses"], first["grad_norms"], rms, whole, [part["digest"] for part in parts], agree)


def _replace_reduction(name: str) -> Callable[[], None]:
    def leave_out() -> None:
        # The package gives the function of this name; the module is what its parts are looked up in.
        module = sys.modules["megatron.core.distributed.finalize_model_grads"]
        assert callable(getattr(module, name))
        setattr(module, name, lambda *_, **__: None)

    return leave_out


REDUCTIONS: dict[str, Callable[[], None]] = {
    "tied-embedding-reduction": _replace_reduction("_allreduce_word_embedding_grads"),
    "norm-gradient-reduction": _replace_reduction("_allreduce_non_tensor_model_parallel_grads"),
}
"""Megatron-Core's reductions that a negative control leaves out, in the forked ranks only."""


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
