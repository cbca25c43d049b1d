"""Transformer Engine's FP8 products: whether they run here, what they gain at given shapes, how to disable them.

Nothing here is chosen by default: at these widths casting costs about what the products save (docs/gpu.md), so each
linear layer is measured. Not yet run on a GPU.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch

from megatron_mmbert.config.model import ModelConfig, linear_shapes
from megatron_mmbert.utils.te_import import te_problem

INSTALL_HINT = "pip install --no-build-isolation 'transformer-engine[pytorch]>=2.12'"
SCALINGS = ("delayed", "current", "block")
MIN_GAIN = 1.02
"""Less than this is not told from noise, and FP8 is not free: it rounds."""
_PASSES = 10


@dataclass(frozen=True)
class Gain:
    """The milliseconds of one linear layer forward and backward over a pack."""

    linear: str
    bf16_ms: float
    fp8_ms: float

    @property
    def gain(self) -> float:
        """The factor by which FP8 is faster."""
        return self.bf16_ms / self.fp8_ms

    def __str__(self) -> str:
        return f"{self.linear} {self.gain:.2f} ({self.bf16_ms:.2f} ms in bf16, {self.fp8_ms:.2f} in FP8)"


def te_unsupported_reason() -> str | None:
    """Return why Transformer Engine's layers cannot run here, in a few words; None if they can."""
    if problem := te_problem():
        return problem
    if not torch.cuda.is_available():
        return "Transformer Engine needs a CUDA device, and there is none"
    return None


def fp8_unsupported_reason(scaling: str) -> str | None:
    """Return why FP8 with that scaling cannot run here; None if it can."""
    if reason := te_unsupported_reason():
        return reason
    from transformer_engine.pytorch import is_fp8_available, is_fp8_block_scaling_available

    check = is_fp8_block_scaling_available if scaling == "block" else is_fp8_available
    possible, reason = check(return_reason=True)
    return None if possible else reason or "this GPU has no FP8 products"


def fp8_disabled() -> AbstractContextManager[Any]:
    """Return a context in which Transformer Engine computes in the tensors' own dtype, whatever is around it."""
    if "transformer_engine.pytorch" not in sys.modules:
        return contextlib.nullcontext()
    import transformer_engine.pytorch as te
    from transformer_engine.pytorch.fp8 import FP8GlobalStateManager

    return te.fp8_autocast(enabled=False) if FP8GlobalStateManager.is_fp8_enabled() else contextlib.nullcontext()


def probe(model: ModelConfig, tokens: int, scaling: str, tensor: int = 1) -> list[Gain]:
    """Time the four linear layers of a layer in bf16 and in FP8, forward and backward over ``tokens`` tokens.

    To be called before the layers to train are made: it ends with Transformer Engine's global state as at its start.

    Raises:
        AssertionError, RuntimeError: Transformer Engine cannot multiply these shapes in FP8.
    """
    try:
        return [_gain(name, tokens, *sizes, scaling) for name, sizes in linear_shapes(model, tensor).items()]
    finally:
        forget()


def forget() -> None:
    """Drop what Transformer Engine keeps of all FP8 layers made so far, which would else be updated with every step of
    those made from now on, though they are gone."""
    if "transformer_engine.pytorch" in sys.modules:
        from transformer_engine.pytorch.fp8 import FP8GlobalStateManager

        FP8GlobalStateManager.reset()


def gaining(gains: Iterable[Gain]) -> list[str]:
    """Return the linear layers that FP8 makes faster."""
    return [each.linear for each in gains if each.gain >= MIN_GAIN]


def _gain(name: str, tokens: int, inputs: int, outputs: int, scaling: str) -> Gain:
    import transformer_engine.pytorch as te

    linear = te.Linear(inputs, outputs, bias=False, params_dtype=torch.bfloat16)
    x = torch.randn(tokens, inputs, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    direction = torch.randn(tokens, outputs, device="cuda", dtype=torch.bfloat16)
    recipe = te_recipe(scaling)

    def step(enabled: bool) -> None:
        linear.weight.grad = x.grad = None
        with te.fp8_autocast(enabled=enabled, fp8_recipe=recipe):
            out = linear(x)
        out.backward(direction)

    return Gain(name, cuda_milliseconds(lambda: step(False)), cuda_milliseconds(lambda: step(True)))


def te_recipe(scaling: str) -> Any:
    """Return the library's recipe of that name as :mod:`megatron_mmbert.model.config` has it, of this rank alone."""
    from transformer_engine.common.recipe import DelayedScaling, Float8BlockScaling, Float8CurrentScaling, Format

    if scaling == "delayed":
        return DelayedScaling(fp8_format=Format.HYBRID, reduce_amax=False)
    if scaling == "current":
        return Float8CurrentScaling(fp8_format=Format.HYBRID)
    return Float8BlockScaling(fp8_format=Format.E4M3)


def cuda_milliseconds(work: Callable[[], object], passes: int = _PASSES) -> float:
    """Return the median time of ``work`` on the GPU, after three passes to warm up."""
    for _ in range(3):
        work()
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(passes + 1)]
    marks[0].record()
    for mark in marks[1:]:
        work()
        mark.record()
    torch.cuda.synchronize()
    times = sorted(before.elapsed_time(after) for before, after in itertools.pairwise(marks))
    return times[len(times) // 2]
