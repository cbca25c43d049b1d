"""Transformer Engine's linear layers, and what the recipe's ``precision`` comes to on this machine.

They are Megatron-Core's wrappers of them. Parameters have the names and shapes of the torch spec's, so that a
checkpoint of one kind is one of the other; norms stay apart, as Transformer Engine's fused LayerNorm always has a bias.
Scales of delayed FP8 are no part of a checkpoint: they are found anew within the first steps. Not yet run on a GPU.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from megatron.core.transformer import ModuleSpec
from torch import Tensor

from megatron_mmbert.config.model import ModelConfig
from megatron_mmbert.config.precision import PrecisionConfig
from megatron_mmbert.kernels import fp8
from megatron_mmbert.model.config import EncoderConfig
from megatron_mmbert.parallel.runtime import all_ranks, broadcast_object
from megatron_mmbert.utils.errors import UserError


def resolve_precision(
    precision: PrecisionConfig, model: ModelConfig, tokens: int, tensor: int = 1
) -> tuple[PrecisionConfig, str]:
    """Return the recipe's precision with nothing left open, and a few words on it for the log.

    A collective where a probe is asked for; rank 0 decides for all.

    Args:
        tokens: of a pack.
        tensor: ranks that share each linear layer.

    Raises:
        UserError: Transformer Engine or FP8 is asked for and cannot run here. It never falls back silently.
    """
    wants_fp8 = precision.fp8 != "none"
    if not wants_fp8 and precision.layers != "te":
        return precision.model_copy(update={"layers": "torch"}), "torch"
    key, reason = (
        ("fp8", fp8.fp8_unsupported_reason(precision.fp8)) if wants_fp8 else ("layers", fp8.te_unsupported_reason())
    )
    if reason := _of_any_rank(reason):
        off = "fp8 to none" if wants_fp8 else "layers to torch"
        hint = f" or {fp8.INSTALL_HINT}" if "not installed" in reason else ""
        raise UserError(f"precision.{key} {getattr(precision, key)}: {reason}; set precision.{off}{hint}")
    if not wants_fp8:
        return precision, "te"
    chosen, words = precision.fp8_linear_layers, ""
    if chosen == "probe":
        chosen, words = _probed(precision.fp8, model, tokens, tensor)
    resolved = precision.model_copy(update={"layers": "te", "fp8_linear_layers": chosen})
    return resolved, f"te, FP8 ({precision.fp8}) in {', '.join(chosen) or 'no linear'}{words}"


def _probed(scaling: str, model: ModelConfig, tokens: int, tensor: int) -> tuple[Any, str]:
    """Return the linear layers that gain in FP8, by rank 0's clock, and a few words on it; a collective."""
    gains, problem = [], None
    try:
        gains = fp8.probe(model, tokens, scaling, tensor)
    except Exception as error:  # whatever a GPU library raises, it says that FP8 cannot be had
        problem = (str(error).splitlines() or [type(error).__name__])[0]
    if problem := _of_any_rank(problem):
        raise UserError(
            f"precision.fp8 {scaling}: a linear layer of this model fails in FP8 ({problem}); set precision.fp8 to none"
        )
    gains = broadcast_object(gains)
    return fp8.gaining(gains), f"; FP8 makes times as fast: {', '.join(map(str, gains))}"


def _of_any_rank(problem: str | None) -> str | None:
    """Return the first rank's problem, the same on all; a collective.

    A rank that raised its own would leave the others waiting in the next exchange.
    """
    found = all_ranks(problem)
    first = next((rank for rank, each in enumerate(found) if each), None)
    if first is None:
        return None
    return found[first] if len(found) == 1 else f"{found[first]}, on rank {first}"


def linear_spec(config: EncoderConfig, name: str) -> ModuleSpec:
    """Return the spec of the linear layer called ``name``, see :func:`megatron_mmbert.config.model.linear_shapes`."""
    column, row = _types()
    return ModuleSpec(
        module=column if name in ("qkv", "fc1") else row, params={"in_fp8": name in config.fp8_linear_layers}
    )


@cache
def _types() -> tuple[type, type]:
    """Return the column- and the row-parallel class; made here, as their bases need Transformer Engine."""
    from megatron.core.extensions.transformer_engine import TEColumnParallelLinear, TERowParallelLinear

    class Column(_Switched, TEColumnParallelLinear):
        """Outputs are cut over tensor-parallel ranks."""

    class Row(_Switched, TERowParallelLinear):
        """Inputs are cut over tensor-parallel ranks."""

    return Column, Row


class _Switched:
    """Computes in FP8 under Megatron-Core's FP8 context only where it is chosen, and only in training: held-out
    packs have any number of tokens, FP8 products multiples of 16, and scores compare across precisions."""

    training: bool

    def __init__(self, *arguments: Any, in_fp8: bool, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.in_fp8 = in_fp8

    def forward(self, x: Tensor) -> Any:
        if self.in_fp8 and self.training:
            return super().forward(x)  # type: ignore[misc]
        with fp8.fp8_disabled():
            return super().forward(x)  # type: ignore[misc]
