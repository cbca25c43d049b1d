"""The measurements of each part, the most important first: a part that runs out of time leaves out the last."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gpu_checks as checks
import gpu_peer as peer
import gpu_training as training
from gpu_scale import Scale
from gpu_training import ALL_LINEARS

from megatron_mmbert.kernels.fp8 import SCALINGS


@dataclass(frozen=True)
class Job:
    """One measurement; ``seconds`` is what it may take at most, compiling included."""

    name: str
    work: Callable[[Scale], Any]
    seconds: float = 90.0


def jobs(part: int) -> list[Job]:
    """In the order they run."""
    return {1: _checks, 2: _speed, 3: _peers}[part]()


def _checks() -> list[Job]:
    found = [
        Job("versions", checks.versions, 60),
        Job("ceiling", checks.ceiling),
        Job("tests", partial(checks.tests, seconds=230), 250),
        *(Job(f"fp8 linears, {shape}", partial(checks.fp8_gains, shape=shape), 60) for shape in ("base", "small")),
    ]
    for length in (1024, 8192):
        for local in (True, False):
            work = partial(checks.engines, shape="base", length=length, local=local)
            found.append(Job(f"engines, {length}, {'local' if local else 'global'}", work, 120))
    found.append(Job("head, base", partial(checks.head, shape="base")))
    found.append(Job("doctor", partial(checks.doctor, seconds=130), 150))
    return found


def _speed() -> list[Job]:
    run = training.throughput
    found = [
        Job("ceiling", checks.ceiling),
        Job("base, 1024", partial(run, shape="base", length=1024), 180),
        Job("base, 8192", partial(run, shape="base", length=8192), 120),
        Job("small, 1024", partial(run, shape="small", length=1024), 120),
        Job("base, 1024, dropout", partial(run, shape="base", length=1024, dropout=0.1)),
        _te("base, 1024, te", 1024),
        *(_te(f"base, 1024, FP8 {scaling}", 1024, fp8=scaling, fp8_linear_layers=ALL_LINEARS) for scaling in SCALINGS),
        _te("base, 1024, FP8 current, probed", 1024, fp8="current"),
        Job("base, 1024, packs of 128k", partial(run, shape="base", length=1024, times=2)),
        Job("base, 8192, packs of 128k", partial(run, shape="base", length=8192, times=2)),
        Job("profile, base, 1024", partial(training.profile, shape="base", length=1024)),
        Job("profile, base, 8192", partial(training.profile, shape="base", length=8192)),
        _te("base, 8192, FP8 current", 8192, fp8="current", fp8_linear_layers=ALL_LINEARS),
    ]
    for engine in ("te", "flex", "varlen", "flash"):
        work = partial(run, shape="base", length=8192, attention_global=engine)
        found.append(Job(f"base, 8192, global by {engine}", work))
    for engine in ("te", "flex", "varlen", "flash"):
        work = partial(run, shape="base", length=1024, attention_local=engine)
        found.append(Job(f"base, 1024, local by {engine}", work))
    found.append(Job("small, 8192", partial(run, shape="small", length=8192)))
    # The last, as it turns compiling off for its whole process.
    found.append(Job("base, 1024, not compiled", partial(run, shape="base", length=1024, compile="none")))
    return found


def _te(name: str, length: int, **precision: Any) -> Job:
    return Job(name, partial(training.throughput, shape="base", length=length, layers="te", **precision))


def _peers() -> list[Job]:
    run = training.throughput
    found = [
        Job("logits, base", partial(peer.same_logits, shape="base")),
        Job("losses, bf16", partial(training.losses, shape="small"), 120),
        *(
            Job(
                f"losses, FP8 {scaling}",
                partial(training.losses, shape="small", layers="te", fp8=scaling, fp8_linear_layers=ALL_LINEARS),
            )
            for scaling in ("current", "block", "delayed")
        ),
    ]
    for length in (1024, 8192):
        for full in (True, False):
            kind = f"{length}, {'full' if full else 'documents'}"
            found.append(Job(f"ours, {kind}", partial(run, shape="base", length=length, full=full), 120))
            found.append(_peer(f"{kind}, sdpa", length, "sdpa", full=full))
            found.append(_peer(f"{kind}, flash_attention_2", length, "flash_attention_2", full=full))
    found += [Job(f"inference, {shape}", partial(peer.inference, shape=shape)) for shape in ("base", "small")]
    for length in (1024, 8192):
        found.append(_peer(f"{length}, documents, sdpa, dense", length, "sdpa", head="dense", full=False))
        found.append(_peer(f"{length}, full, sdpa, compiled", length, "sdpa", compiled=True))
        found.append(_peer(f"{length}, full, flex_attention", length, "flex_attention"))
    found.append(Job("losses, fp32, a third", partial(training.losses, shape="small", share=1 / 3, dtype="fp32")))
    return found


def _peer(name: str, length: int, attention: str, **options: Any) -> Job:
    return Job(f"peer, {name}", partial(peer.training, shape="base", length=length, attention=attention, **options))
