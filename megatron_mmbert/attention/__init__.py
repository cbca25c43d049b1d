"""Attention over packed samples: one contract (:mod:`.interface`), several engines, chosen by :mod:`.selection`."""

from __future__ import annotations

from functools import cache

import torch
from torch import Tensor

from megatron_mmbert.attention.engines import cpu, eager, flash, flex, te, torch_sdpa, varlen
from megatron_mmbert.attention.interface import Engine, Request, SequenceLayout
from megatron_mmbert.attention.selection import (
    AUTO,
    check_engine,
    fastest,
    joint_trials,
    named,
    try_engine,
    usable_trials,
)
from megatron_mmbert.parallel.runtime import all_ranks
from megatron_mmbert.utils.errors import UserError

_ALL = (
    Engine("cpu", cpu.attend, cpu.unsupported_reason, fused=cpu.attend_fused),
    Engine("te", te.attend, te.unsupported_reason, te.INSTALL_HINT),
    Engine("varlen", varlen.attend, varlen.unsupported_reason),
    Engine("flash", flash.attend, flash.unsupported_reason, flash.INSTALL_HINT, deterministic=False),
    Engine("flex", flex.attend, flex.unsupported_reason, flex.INSTALL_HINT),
    Engine("torch", torch_sdpa.attend, torch_sdpa.unsupported_reason),
    Engine("eager", eager.attend, eager.unsupported_reason),
)
ENGINES: dict[str, Engine] = {engine.name: engine for engine in _ALL}
"""By name; on a CPU the first that supports a request is the fastest."""

_TRIAL_TOKENS = 32_768

__all__ = ["AUTO", "ENGINES", "Engine", "Request", "SequenceLayout", "attend", "choose"]


def choose(name: str, request: Request, heads: int) -> Engine:
    """Return the engine of that name, or for ``auto`` the one to use for ``request`` here.

    On GPUs ``auto`` is a collective at its first call for a request: all ranks make the same calls in the same order.

    Raises:
        UserError: no such engine, it cannot do the request, or not deterministically where PyTorch is asked for that;
            or none is correct on every rank.
    """
    fixed = torch.are_deterministic_algorithms_enabled()
    if name != AUTO:
        engine = named(name, request, ENGINES)
        if fixed and not engine.deterministic:
            raise UserError(f"attention engine {name!r}: not deterministic; choose {AUTO} or another engine")
        return engine
    if request.device == "cpu":
        return next(
            each for each in _ALL if each.unsupported_reason(request) is None and (each.deterministic or not fixed)
        )
    return ENGINES[(_first_correct_here if fixed else _fastest_here)(request, heads)]


@cache
def _fastest_here(request: Request, heads: int) -> str:
    """Return the name of the fastest engine, measured once per process and kind of layer; the same on all ranks."""
    lengths = [request.sample_tokens] * max(1, _TRIAL_TOKENS // request.sample_tokens)
    trials = [try_engine(engine, request, heads, lengths) for engine in _ALL if engine.name != "eager"]
    return fastest(joint_trials(all_ranks(trials))).engine


@cache
def _first_correct_here(request: Request, heads: int) -> str:
    """Return the name of the first deterministic engine that is correct on all ranks; nothing is timed."""
    trials = [check_engine(engine, request, heads) for engine in _ALL if engine.deterministic]
    return usable_trials(joint_trials(all_ranks(trials)))[0].engine


def attend(
    q_THD: Tensor,
    k_THD: Tensor,
    v_THD: Tensor,
    cu_seqlens: Tensor,
    max_seqlen: int,
    window_each_side: int | None,
    engine: str = "torch",
) -> Tensor:
    """Return the attention of packed sequences by the engine of that name.

    Args:
        q_THD, k_THD, v_THD: [T, H, D], any float dtype.
        cu_seqlens: int32 [S+1], from 0 to T.
        max_seqlen: the longest sequence, in tokens.
        window_each_side: visible tokens on each side of a token, itself not counted; None for the whole sequence.

    Returns:
        out_THD in the dtype of q_THD.
    """
    return ENGINES[engine](q_THD, k_THD, v_THD, SequenceLayout(cu_seqlens, max_seqlen), window_each_side)
