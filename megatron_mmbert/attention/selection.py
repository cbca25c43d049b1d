"""The choice of an engine: the one a recipe names, or for ``auto`` the fastest of those that are correct here.

On a CPU the order of speed is known (``python -m megatron_mmbert.doctor`` measures it), so nothing is timed, and two
runs of one recipe compute the same bits. On a GPU every willing engine is checked against the reference and timed, once
per kind of layer and on every rank. The ranks then exchange their trials, and take the engine that is correct on all of
them and fastest on the slowest.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from megatron_mmbert.attention.interface import Engine, Request, SequenceLayout
from megatron_mmbert.utils.errors import UserError, nearest

AUTO = "auto"
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
_HALF_TOLERANCE = 5e-2  # of values of order 1, for bf16 and fp16
_CHECK_LENGTHS = (63, 130, 1, 250, 68)


@dataclass(frozen=True)
class Trial:
    """The result of trying one engine; ``error`` is the largest deviation from the reference."""

    engine: str
    unsupported_reason: str | None
    error: float | None = None
    milliseconds: float | None = None

    @property
    def usable(self) -> bool:
        return self.unsupported_reason is None


def named(name: str, request: Request, engines: Mapping[str, Engine]) -> Engine:
    """Return the engine of that name.

    Raises:
        UserError: there is none, or it cannot do the request.
    """
    if name not in engines:
        known = ", ".join([AUTO, *engines])
        raise UserError(f"attention engine {name!r}: unknown{nearest(name, [AUTO, *engines])}; choose one of {known}")
    reason = engines[name].unsupported_reason(request)
    if reason:
        hint = f" or {engines[name].install_hint}" if engines[name].install_hint else ""
        raise UserError(f"attention engine {name!r}: {reason}; choose another, e.g. {AUTO}{hint}")
    return engines[name]


def check_engine(engine: Engine, request: Request, heads: int) -> Trial:
    """Check ``engine`` against the reference, untimed."""
    return _trial(engine, request, lambda: (_error(engine, request, heads), None))


def try_engine(engine: Engine, request: Request, heads: int, lengths: Sequence[int], repeats: int = 3) -> Trial:
    """Check ``engine`` against the reference and time one pack of sequences of ``lengths``."""
    checked = check_engine(engine, request, heads)
    if not checked.usable:
        return checked
    return _trial(
        engine, request, lambda: (checked.error or 0.0, _milliseconds(engine, request, heads, lengths, repeats))
    )


def _trial(engine: Engine, request: Request, measure: Callable[[], tuple[float, float | None]]) -> Trial:
    """Return the trial of an engine whose error and milliseconds ``measure`` finds; it raises nothing."""
    reason = engine.unsupported_reason(request)
    if reason:
        return Trial(engine.name, reason)
    try:
        error, milliseconds = measure()
    except Exception as problem:  # whatever a GPU library raises, it says that this engine cannot
        return Trial(engine.name, f"fails here: {(str(problem).splitlines() or [type(problem).__name__])[0]}")
    tolerance = _TOLERANCE.get(request.dtype, _HALF_TOLERANCE)
    if not error <= tolerance:
        return Trial(engine.name, f"wrong by {error:.1e} here (limit {tolerance:g})", error)
    return Trial(engine.name, None, error, milliseconds)


def joint_trials(trials_of_ranks: Sequence[Sequence[Trial]]) -> list[Trial]:
    """Return one trial of each engine for all ranks: usable if it is on every rank, as slow as on the slowest.

    Args:
        trials_of_ranks: by rank, of the same engines in the same order.
    """
    return [_joint(trials) for trials in zip(*trials_of_ranks, strict=True)]


def _joint(trials: Sequence[Trial]) -> Trial:
    name = trials[0].engine
    for rank, trial in enumerate(trials):
        if not trial.usable:
            where = f"on rank {rank} it " if len(trials) > 1 and trial.error is None else ""
            return Trial(name, f"{where}{trial.unsupported_reason}", trial.error)
    times = [trial.milliseconds for trial in trials if trial.milliseconds is not None]
    return Trial(name, None, max(trial.error or 0.0 for trial in trials), max(times) if times else None)


def usable_trials(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials of the engines that are correct, in their order.

    Raises:
        UserError: there is none; the sentence has every engine's reason.
    """
    found = [trial for trial in trials if trial.usable]
    if not found:
        reasons = "; ".join(f"{trial.engine}: {trial.unsupported_reason}" for trial in trials)
        raise UserError(
            f"attention engine {AUTO!r}: none is correct on every rank ({reasons}); run `mmbert doctor` on the machine "
            "of that rank, and leave that machine out"
        )
    return found


def fastest(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the fastest engine that is correct.

    Raises:
        UserError: none is.
    """
    return min(usable_trials(trials), key=lambda each: each.milliseconds or 0.0)


def sequence_layout(lengths: Sequence[int], device: str) -> SequenceLayout:
    """Return the layout of sequences of these lengths, laid end to end."""
    bounds = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)
    return SequenceLayout(bounds, max(lengths))


def _inputs(request: Request, heads: int, tokens: int, dtype: torch.dtype) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    drawn = torch.randn(4, tokens, heads, request.head_width, generator=generator)
    return [x.to(request.device, request.dtype).to(dtype) for x in drawn]


def _run(engine: Engine, request: Request, inputs: Sequence[Tensor], layout: SequenceLayout) -> list[Tensor]:
    q, k, v, direction = inputs
    if not request.backward:
        with torch.no_grad():
            return [engine(q, k, v, layout, request.window_each_side)]
    q, k, v = (x.detach().requires_grad_() for x in (q, k, v))
    out = engine(q, k, v, layout, request.window_each_side)
    return [out, *torch.autograd.grad(out, (q, k, v), direction)]


def _error(engine: Engine, request: Request, heads: int) -> float:
    from megatron_mmbert.attention import ENGINES

    tokens = sum(_CHECK_LENGTHS)
    inputs = _inputs(request, heads, tokens, request.dtype)
    found = _run(engine, request, inputs, sequence_layout(_CHECK_LENGTHS, request.device))
    exact = _inputs(request, heads, tokens, torch.float64)
    expected = _run(ENGINES["eager"], request, exact, sequence_layout(_CHECK_LENGTHS, request.device))
    return max((x.double() - y).abs().max().item() for x, y in zip(found, expected, strict=True))


def _milliseconds(engine: Engine, request: Request, heads: int, lengths: Sequence[int], repeats: int) -> float:
    inputs = _inputs(request, heads, sum(lengths), request.dtype)
    layout, times = sequence_layout(lengths, request.device), []
    for _ in range(repeats + 1):  # the first pass compiles and builds what is kept for the pack
        start = time.perf_counter()
        _run(engine, request, inputs, layout)
        if request.device == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * min(times[1:])
