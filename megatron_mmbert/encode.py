"""The former name of :mod:`megatron_mmbert.inference`, for programs and scripts that use it.

``python -m megatron_mmbert.encode`` is the command ``mmbert encode``; ``load_model``, ``encode`` and ``score`` are
those of :mod:`megatron_mmbert.inference`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from megatron_mmbert import inference

if TYPE_CHECKING:
    from megatron_mmbert.inference import Model, encode, load_model, score

__all__ = ["Model", "encode", "load_model", "score"]


def __getattr__(name: str) -> Any:
    """Return a name of ``__all__``; the command line needs none of them, and they import torch."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(inference, name)


if __name__ == "__main__":
    from megatron_mmbert.cli import run_as

    run_as("encode", "python -m megatron_mmbert.encode")
